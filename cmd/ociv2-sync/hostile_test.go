package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// sums returns the digests of all regular files below a directory, by path.
func sums(t testing.TB, dir string) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		all[value(filepath.Rel(dir, path))] = sha256.Sum256(value(os.ReadFile(path)))
		return nil
	}))
	return all
}

// TestKilledUpdate kills pulls in place when they are about to rename or to remove
// something. Each file is then that of one release or of the other, and to pull again
// makes the directory exact.
func TestKilledUpdate(t *testing.T) {
	t.Parallel()
	testutil.NeedRoot(t)
	strace := testutil.Tool(t, "strace")
	if out, err := exec.CommandContext(t.Context(), strace, "-f", "-qq", "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not trace: %s", out)
	}
	p := publish(t)
	old, next := sums(t, p.releases[0]), sums(t, p.releases[1])
	killed := 0
	for _, n := range []int{1, 4, 11} {
		d := newDevice(t)
		dest := filepath.Join(t.TempDir(), "dest")
		output(t, "cp", "-a", p.releases[0], dest)
		args := []string{"pull", "-q", "--in-place", p.ref(2), "rootfs:" + dest}
		cmd := d.command(args...)
		cmd.Args = append([]string{
			strace, "-f", "-qq", "-o", filepath.Join(t.TempDir(), "log"),
			"-e", fmt.Sprintf("inject=renameat,renameat2,unlinkat:signal=KILL:when=%d", n), "-e", "signal=none", "ociv2-sync",
		}, args...)
		cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(linkTo(t, cmd.Path))+":"+os.Getenv("PATH"))
		cmd.Path = strace
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%v\n%s", err, out)
		}
		if err != nil {
			killed++
		}
		for path, sum := range sums(t, dest) {
			if sum != old[path] && sum != next[path] && !strings.HasPrefix(path, ".ociv2-sync-") {
				t.Errorf("killed at %d: %s is neither that of the old release nor that of the new one", n, path)
			}
		}
		d.must(args...)
		testutil.CompareTrees(t, p.releases[1], dest)
	}
	if killed == 0 {
		t.Error("none was killed")
	}
}

// linkTo returns a path of a program that calls itself ociv2-sync.
func linkTo(t testing.TB, exe string) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "ociv2-sync")
	must(t, os.Symlink(exe, link))
	return link
}

// TestSeedOfAnotherUser pulls as an ordinary user with a seed that not all may read.
func TestSeedOfAnotherUser(t *testing.T) {
	t.Parallel()
	testutil.NeedRoot(t)
	const nobody, files = 65534, 12
	dir, err := os.MkdirTemp("", "another-user") // t.TempDir lies below what nobody may not enter
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	tree, seed, home := filepath.Join(dir, "tree"), filepath.Join(dir, "seed"), filepath.Join(dir, "home")
	for _, d := range []string{tree, home} {
		must(t, os.Mkdir(d, 0o755))
	}
	for i := range files {
		writeNoise(t, filepath.Join(tree, fmt.Sprint(i)), uint64(i), fileSize)
	}
	must(t, os.CopyFS(seed, os.DirFS(tree)))
	for _, name := range []string{"3", "7"} {
		must(t, os.Chmod(filepath.Join(seed, name), 0o600))
	}
	must(t, os.Mkdir(filepath.Join(seed, "private"), 0o700))
	must(t, os.Rename(filepath.Join(seed, "5"), filepath.Join(seed, "private", "5")))
	must(t, os.Chown(home, nobody, nobody))
	d := &device{t: t, root: filepath.Join(home, "root")}
	d.must("push", "rootfs:"+tree, dir+"/repo/app:1")

	cmd := d.command("--json", "pull", "--seed", seed, dir+"/repo/app:1", "rootfs:"+home+"/dest")
	cmd.Env = append(cmd.Env, "HOME="+home)
	cmd.Path = "/proc/self/exe" // nobody may not reach it by its name
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	must(t, cmd.Start())
	if code := wait(t, cmd); code != exitDone {
		t.Fatalf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
	}
	if !strings.Contains(stderr.String(), `"not readable"=3`) || !strings.Contains(stdout.String(), fmt.Sprintf(`"contentsFromSeeds": %d,`, files-3)) {
		t.Errorf("want %d files of the seed, and a word on three:\n%s%s", files-3, stdout.String(), stderr.String())
	}
	if n := strings.Count(stderr.String(), "passed over"); n != 2 {
		t.Errorf("%d words on it, want one for whole files and one for parts:\n%s", n, stderr.String())
	}
	testutil.CompareTrees(t, tree, home+"/dest", testutil.Without(testutil.Owner))
}
