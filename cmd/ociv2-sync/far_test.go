package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// far is a repository that is reached over a network.
type far struct {
	url string
	dir string // where its files are on this machine
	env []string
}

// fars are one for each transport that can be written to.
func fars(t *testing.T) map[string]func(t *testing.T) far {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	ours := filepath.Join(t.TempDir(), "ociv2-sync")
	must(t, os.Symlink(exe, ours))
	overSSH := func(scheme string) func(t *testing.T) far {
		return func(t *testing.T) far {
			dir := filepath.Join(t.TempDir(), "repo")
			return far{scheme + "://host" + dir, dir, []string{
				"CASYNC_SSH_PATH=" + testutil.StartSSHD(t, ""), "OCIV2_SYNC_REMOTE_COMMAND=" + ours,
			}}
		}
	}
	return map[string]func(t *testing.T) far{
		"ssh": overSSH("ssh"), "sftp": overSSH("sftp"),
		"s3": func(t *testing.T) far {
			dir := t.TempDir()
			return far{"s3://bucket/repo", filepath.Join(dir, "bucket", "repo"), []string{
				"AWS_ENDPOINT_URL_S3=" + testutil.StartS3In(t, dir, "bucket"), "AWS_ACCESS_KEY_ID=" + testutil.S3AccessKey, "AWS_SECRET_ACCESS_KEY=" + testutil.S3SecretKey,
			}}
		},
	}
}

// TestPushesAtOnceFar has several push to a repository on another machine at once, two
// of them to the same tag: none is lost, and that tag is whole and of one of the two.
func TestPushesAtOnceFar(t *testing.T) {
	const tags = 3
	dir := t.TempDir()
	var trees [tags + 1]string // the last two are for one tag
	for i := range trees {
		trees[i] = filepath.Join(dir, fmt.Sprint(i))
		must(t, os.MkdirAll(trees[i], 0o755))
		writeNoise(t, filepath.Join(trees[i], "file"), uint64(i)|99<<32, 2*fileSize)
		setTime(t, trees[i])
	}
	for name, start := range fars(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := start(t)
			d := newDevice(t)
			ref := func(i int) string { return fmt.Sprintf("%s/app:%d", at.url, min(i, tags-1)) }
			command := func(args ...string) *exec.Cmd {
				cmd := d.command(args...)
				cmd.Env = append(cmd.Env, at.env...)
				return cmd
			}
			var wg sync.WaitGroup
			for i, tree := range trees {
				wg.Go(func() {
					if out, err := command("push", "-q", "rootfs:"+tree, ref(i)).CombinedOutput(); err != nil {
						t.Errorf("push %d: %v\n%s", i, err, out)
					}
				})
			}
			wg.Wait()
			if out, err := command("images", at.url).Output(); err != nil || string(out) != "app:0\napp:1\napp:2\n" {
				t.Errorf("images: %q, %v", out, err)
			}
			for i := range tags {
				dest := filepath.Join(t.TempDir(), "dest")
				if out, err := command("pull", "-q", ref(i), "rootfs:"+dest).CombinedOutput(); err != nil {
					t.Fatalf("pull %d: %v\n%s", i, err, out)
				}
				if differences, err := testutil.DiffTrees(trees[i], dest); i < tags-1 || err == nil && len(differences) == 0 {
					testutil.CompareTrees(t, trees[i], dest)
				} else {
					testutil.CompareTrees(t, trees[tags], dest)
				}
			}
		})
	}
}

// chunksIn counts the chunks below a directory.
func chunksIn(t testing.TB, dir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && chunkName.MatchString(e.Name()) {
			n++
		}
		if errors.Is(err, fs.ErrNotExist) { // what is written meanwhile changes
			return nil
		}
		return err
	})
	must(t, err)
	return n
}

// killAt starts a process, and kills it once there are so many chunks below dir. It
// returns false if the process ended before.
func killAt(t testing.TB, cmd *exec.Cmd, dir string, chunks int) bool {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%v: %s", err, &stderr)
			}
			return false
		case <-tick.C:
			if chunksIn(t, dir) >= chunks {
				// With its ssh, as when the power fails.
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				<-ended
				return true
			}
		}
	}
}

// TestKilledFar kills pushes to repositories on other machines, and pulls from them:
// what was there works, nothing half done is seen, and who comes next goes on with
// what has arrived.
func TestKilledFar(t *testing.T) {
	dir := t.TempDir()
	trees := [2]string{filepath.Join(dir, "old"), filepath.Join(dir, "new")}
	for i, tree := range trees {
		must(t, os.MkdirAll(tree, 0o755))
		for n := range 40 {
			writeNoise(t, filepath.Join(tree, fmt.Sprintf("file%03d", n)), uint64(n)|uint64(i+9)<<32, fileSize)
		}
		setTime(t, tree)
	}
	for name, start := range fars(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := start(t)
			d := newDevice(t)
			command := func(args ...string) *exec.Cmd {
				cmd := d.command(args...)
				cmd.Env = append(cmd.Env, at.env...)
				return cmd
			}
			run := func(args ...string) []byte {
				t.Helper()
				cmd := command(args...)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%q: %v\n%s", args, err, &stderr)
				}
				return out
			}
			ref := at.url + "/app:1"
			run("push", "-q", "rootfs:"+trees[0], ref)
			run("pull", "-q", ref)
			old := must1(filepath.EvalSymlinks(d.path("app:1")))
			store, cache := filepath.Join(at.dir, "default.castr"), filepath.Join(d.root, "chunks.castr")
			before := chunksIn(t, store)

			push := []string{"push", "--deltas=0", "--json", "rootfs:" + trees[1], ref}
			for _, more := range []int{1, 25} {
				if !killAt(t, command(push...), store, before+more) {
					t.Error("the push is not killed")
				}
				run("pull", "-q", ref) // the old image, which is there
				if now := must1(filepath.EvalSymlinks(d.path("app:1"))); now != old {
					t.Error("an image that was not pushed is there")
				}
			}
			// It is known which have come, but not of those on their way.
			came := chunksIn(t, store)
			var pushed struct{ NewChunks, Chunks int }
			must(t, json.Unmarshal(run(push...), &pushed))
			if all := chunksIn(t, store); pushed.NewChunks > all-came || all-before < 50 {
				t.Errorf("%d chunks at first, %d when the push was killed, %d at the end, of which the next one sent %d", before, came, all, pushed.NewChunks)
			}

			var plan struct{ Total struct{ WireBytes int64 } }
			must(t, json.Unmarshal(run("plan", "--json", ref), &plan))
			pull := []string{"pull", "-q", "--json", ref}
			for _, more := range []int{1, 25} {
				if !killAt(t, command(pull...), cache, more) {
					t.Error("the pull is not killed")
				}
				if now := must1(filepath.EvalSymlinks(d.path("app:1"))); now != old {
					t.Error("another image is shown")
				}
				testutil.CompareTrees(t, trees[0], old)
			}
			var kept int64
			names, err := filepath.Glob(filepath.Join(cache, "*.cacnk"))
			must(t, err)
			for _, name := range names {
				info, err := os.Stat(name)
				must(t, err)
				kept += info.Size()
			}
			var pulled struct{ Bytes int64 }
			must(t, json.Unmarshal(run(pull...), &pulled))
			if most := plan.Total.WireBytes - kept; len(names) < 25 || pulled.Bytes > most {
				t.Errorf("the last pull fetched %d bytes, of %d, of which %d in %d chunks had come", pulled.Bytes, plan.Total.WireBytes, kept, len(names))
			}
			testutil.CompareTrees(t, trees[1], must1(filepath.EvalSymlinks(d.path("app:1"))))
			for _, name := range []string{".lock", ".gc"} {
				if _, err := os.Stat(filepath.Join(at.dir, name)); err == nil {
					t.Errorf("%s is left", name)
				}
			}
		})
	}
}
