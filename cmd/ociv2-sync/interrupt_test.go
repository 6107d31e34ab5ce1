package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// big is the number of files of a release that is large against what is in
// flight at a time: 30 MB, where 16 chunks are one.
const big = 300

func buildBig(t testing.TB, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	for i := range big {
		writeNoise(t, filepath.Join(dir, fmt.Sprintf("file%03d", i)), uint64(i)|7<<32, fileSize)
	}
	setTime(t, dir)
}

// trap serves a directory, and springs at one of the requests for a chunk.
type trap struct {
	files http.Handler
	mu    sync.Mutex
	at    int // the request at which it springs; 0 never
	stall bool
	hit   func()
	n     int
	sent  map[string]int64 // bytes of chunks that were answered whole
	again int64            // of them, bytes that had been sent before
}

func setTrap(t testing.TB, dir string) (*trap, string) {
	t.Helper()
	tr := &trap{files: http.FileServer(http.Dir(dir)), sent: map[string]int64{}}
	server := httptest.NewServer(tr)
	t.Cleanup(server.Close)
	return tr, server.URL
}

func (tr *trap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, ".cacnk") {
		tr.files.ServeHTTP(w, r)
		return
	}
	tr.mu.Lock()
	tr.n++
	now := tr.n == tr.at
	if now {
		tr.hit() // later requests wait for it
	}
	tr.mu.Unlock()
	if now && tr.stall {
		<-r.Context().Done()
		return
	}
	count := &countingWriter{ResponseWriter: w}
	tr.files.ServeHTTP(count, r)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.sent[r.URL.Path] > 0 {
		tr.again += count.n
	}
	tr.sent[r.URL.Path] += count.n
}

// set makes the trap spring at the request number at from now on.
func (tr *trap) set(at int, hit func()) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.at, tr.hit, tr.n = at, hit, 0
}

// start starts a command and has the trap send it a signal at the request number
// at.
func (tr *trap) start(t testing.TB, cmd *exec.Cmd, at int, sig os.Signal) {
	t.Helper()
	started := make(chan struct{})
	tr.set(at, func() {
		<-started
		_ = cmd.Process.Signal(sig)
	})
	must(t, cmd.Start())
	close(started)
}

func (tr *trap) total() (sum, again int64) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, n := range tr.sent {
		sum += n
	}
	return sum - tr.again, tr.again
}

type countingWriter struct {
	http.ResponseWriter
	n int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// interrupted says how a process ends that a signal interrupts.
func interrupted(t testing.TB, sig syscall.Signal, code int, stderr string) {
	t.Helper()
	want, word := map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143, syscall.SIGKILL: -1}[sig],
		map[syscall.Signal]string{syscall.SIGINT: "ociv2-sync: interrupted\n", syscall.SIGTERM: "ociv2-sync: terminated\n"}[sig]
	if code != want || !strings.HasSuffix(stderr, word) {
		t.Errorf("%v: exit code %d, want %d; %s", sig, code, want, stderr)
	}
}

// TestInterruptedPull cuts pulls off at several requests, as the user does, as
// the system does and as a power failure does. What was there works, and the
// next pull fetches little again.
func TestInterruptedPull(t *testing.T) {
	t.Parallel()
	p := publish(t)
	tree := filepath.Join(t.TempDir(), "big")
	buildBig(t, tree)
	newDevice(t).must("push", "--deltas=0", "rootfs:"+tree, p.repo+"/app:big")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		for _, into := range []string{"root", "directory"} {
			t.Run(fmt.Sprint(sig, " into ", into), func(t *testing.T) {
				tr, url := setTrap(t, p.repo)
				tr.stall = true
				d := newDevice(t)
				d.must("pull", p.ref(1))
				dest := filepath.Join(t.TempDir(), "dest")
				must(t, os.Mkdir(dest, 0o755))
				must(t, os.WriteFile(filepath.Join(dest, "precious"), []byte("keep me"), 0o600))
				args := []string{"pull", "-q", url + "/app:big"}
				result := d.path("app:big")
				if into == "directory" {
					args, result = append(args, "--replace", "rootfs:"+dest), dest
				}
				old := must1(filepath.EvalSymlinks(d.path("app:1")))
				for _, at := range []int{1, 180, 200} { // of some 450 in all
					cmd := d.command(args...)
					var stderr bytes.Buffer
					cmd.Stderr = &stderr
					tr.start(t, cmd, at, sig)
					interrupted(t, sig, wait(t, cmd), stderr.String())
					if into == "root" {
						if _, err := os.Lstat(result); err == nil {
							t.Error("the image is shown")
						}
					} else if _, err := os.Stat(filepath.Join(dest, "precious")); err != nil {
						t.Error(err)
					}
					if sig != syscall.SIGKILL {
						noLeftovers(t, d, dest)
					}
				}
				testutil.CompareTrees(t, p.releases[0], old)
				tr.set(0, nil)
				d.must(args...)
				testutil.CompareTrees(t, tree, must1(filepath.EvalSymlinks(result)))
				testutil.CompareTrees(t, p.releases[0], old)
				noLeftovers(t, d, dest)
				if chunks, err := os.ReadDir(filepath.Join(d.root, "chunks.castr")); err != nil || len(chunks) > 0 {
					t.Errorf("chunks are kept after the pull: %d, %v", len(chunks), err)
				}
				if sum, again := tr.total(); again > 3*sum/20 { // 5 % for each of three cuts
					t.Errorf("%d bytes fetched, and %d of them again", sum, again)
				} else {
					t.Logf("%d bytes fetched, %d again after three cuts", sum, again)
				}
			})
		}
	}
}

func must1(path string, _ error) string { return path }

// noLeftovers fails the test if anything half-made is in the root or beside dest.
func noLeftovers(t testing.TB, d *device, dest string) {
	t.Helper()
	for dir, want := range map[string]int{filepath.Join(d.root, "tmp"): 0, filepath.Dir(dest): 1} {
		entries, err := os.ReadDir(dir)
		must(t, err)
		if len(entries) != want {
			t.Errorf("left behind in %s: %v", dir, entries)
		}
	}
}

// TestKilledPull kills pulls at arbitrary moments, over and over in one root:
// the path always shows a whole image, the old or the new one.
func TestKilledPull(t *testing.T) {
	t.Parallel()
	p := publish(t)
	d := newDevice(t)
	d.must("push", "--deltas=0", "rootfs:"+p.releases[0], p.repo+"/app:moving")
	d.must("pull", p.repo+"/app:moving")
	start := time.Now()
	other := newDevice(t)
	other.must("pull", p.ref(1))
	d.must("push", "--deltas=0", "rootfs:"+p.releases[1], p.repo+"/app:moving")
	whole := time.Since(start)
	const kills = 12
	for i := range kills {
		cmd := d.command("pull", "-q", p.repo+"/app:moving")
		must(t, cmd.Start())
		time.Sleep(whole * time.Duration(i) / kills / 2)
		_ = cmd.Process.Kill() // it may have ended
		code := wait(t, cmd)
		path := must1(filepath.EvalSymlinks(d.path("app:moving")))
		now, err := os.ReadFile(filepath.Join(path, "release"))
		must(t, err)
		switch string(now) {
		case "release 1\n":
			if code == exitDone {
				t.Error("done, and nothing has changed")
			}
			testutil.CompareTrees(t, p.releases[0], path)
		case "release 2\n":
			testutil.CompareTrees(t, p.releases[1], path)
		default:
			t.Fatalf("the path shows %q", now)
		}
	}
	d.must("pull", p.repo+"/app:moving")
	testutil.CompareTrees(t, p.releases[1], must1(filepath.EvalSymlinks(d.path("app:moving"))))
	trees, err := os.ReadDir(filepath.Join(d.root, "trees"))
	must(t, err)
	if len(trees) != 2 {
		t.Errorf("%d trees, want the image and its predecessor", len(trees))
	}
	d.must("rollback", "app:moving")
	testutil.CompareTrees(t, p.releases[0], must1(filepath.EvalSymlinks(d.path("app:moving"))))
}

// TestInterruptedExtract cuts an extraction off: nothing is there, and no rest.
func TestInterruptedExtract(t *testing.T) {
	t.Parallel()
	p := publish(t)
	tr, url := setTrap(t, p.repo)
	tr.stall = true
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		d := newDevice(t)
		d.root = t.TempDir() // noLeftovers wants one
		must(t, os.Mkdir(filepath.Join(d.root, "tmp"), 0o755))
		dest := filepath.Join(t.TempDir(), "dest")
		for _, at := range []int{1, 60} {
			cmd := d.command("extract", "--store", url+"/default.castr", url+"/app/1.caidx", dest)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			tr.start(t, cmd, at, sig)
			interrupted(t, sig, wait(t, cmd), stderr.String())
			if _, err := os.Lstat(dest); err == nil {
				t.Error("the destination is there")
			}
		}
		tr.set(0, nil)
		d.must("extract", "--store", url+"/default.castr", url+"/app/1.caidx", dest)
		noLeftovers(t, d, dest)
		testutil.CompareTrees(t, p.releases[0], dest, testutil.Without(testutil.HardLinks))
	}
}

var chunkName = regexp.MustCompile(`^[0-9a-f]{64}\.cacnk$`)

// TestInterruptedPush interrupts pushes at arbitrary moments: readers see the old
// tag or the new one, whole, and the next push leaves nothing of those before.
func TestInterruptedPush(t *testing.T) {
	t.Parallel()
	trees := [2]string{filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "new")}
	buildRelease(t, trees[0], 1)
	buildBig(t, trees[1])
	d := newDevice(t)
	measure := filepath.Join(t.TempDir(), "repo")
	start := time.Now()
	d.must("push", "--deltas=0", "rootfs:"+trees[1], measure+"/app:1")
	whole := time.Since(start)
	const moments = 4
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		repo := filepath.Join(t.TempDir(), "repo")
		d.must("push", "--deltas=0", "rootfs:"+trees[0], repo+"/app:1")
		for i := range moments {
			cmd := d.command("push", "--deltas=0", "-q", "rootfs:"+trees[1], repo+"/app:1")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			must(t, cmd.Start())
			time.Sleep(whole * time.Duration(1+2*i) / (2 * moments))
			_ = cmd.Process.Signal(sig)
			if code := wait(t, cmd); code != exitDone { // it may have been quicker
				if !whileStarting(sig, cmd.ProcessState.Sys().(syscall.WaitStatus)) {
					interrupted(t, sig, code, stderr.String())
				}
			}
			dest := filepath.Join(t.TempDir(), "dest")
			d.must("pull", repo+"/app:1", "rootfs:"+dest)
			if differences, err := testutil.DiffTrees(trees[0], dest); err != nil || len(differences) > 0 {
				testutil.CompareTrees(t, trees[1], dest)
			}
		}
		d.must("push", "--deltas=0", "rootfs:"+trees[1], repo+"/app:1")
		dest := filepath.Join(t.TempDir(), "dest")
		d.must("pull", repo+"/app:1", "rootfs:"+dest)
		testutil.CompareTrees(t, trees[1], dest)
		must(t, filepath.WalkDir(repo, func(path string, e os.DirEntry, err error) error {
			rel := strings.TrimPrefix(path, repo)
			if err == nil && !e.IsDir() && (strings.HasPrefix(e.Name(), ".") || strings.Contains(e.Name(), "tmp") ||
				strings.HasPrefix(rel, "/default.castr") && !chunkName.MatchString(e.Name())) {
				t.Errorf("%v: left behind: %s", sig, rel)
			}
			return err
		}))
	}
}

// whileStarting reports whether a process died of a signal before it could
// handle it.
func whileStarting(sig syscall.Signal, status syscall.WaitStatus) bool {
	return sig != syscall.SIGKILL && status.Signaled() && status.Signal() == sig
}

// TestInterruptedMake interrupts make at arbitrary moments: the output is not
// there, or as it was.
func TestInterruptedMake(t *testing.T) {
	t.Parallel()
	tree := filepath.Join(t.TempDir(), "tree")
	buildBig(t, tree)
	d := newDevice(t)
	dir := t.TempDir()
	start := time.Now()
	want := d.must("make", "-q", filepath.Join(dir, "want.caidx"), tree).stdout
	whole := time.Since(start)
	for _, out := range []string{"out.catar", "out.caidx"} {
		for i, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL, syscall.SIGKILL} {
			dir := t.TempDir()
			out := filepath.Join(dir, out)
			if i%2 == 0 {
				must(t, os.WriteFile(out, []byte("old"), 0o644))
			}
			cmd := d.command("make", "-q", out, tree)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			must(t, cmd.Start())
			time.Sleep(whole * time.Duration(1+i) / 8)
			_ = cmd.Process.Signal(sig)
			code := wait(t, cmd)
			left, err := os.ReadFile(out)
			if got := d.must("make", "-q", out, tree).stdout; got != want {
				t.Errorf("%v: then made %s, want %s", sig, got, want)
			}
			whole, rerr := os.ReadFile(out)
			must(t, rerr)
			switch {
			case code == exitDone:
			case whileStarting(sig, cmd.ProcessState.Sys().(syscall.WaitStatus)):
			case sig == syscall.SIGKILL && bytes.Equal(left, whole):
				// It was killed when all was done.
			default:
				interrupted(t, sig, code, stderr.String())
				if i%2 == 0 && string(left) != "old" || i%2 == 1 && err == nil {
					t.Errorf("%v: the output is %d bytes, %v", sig, len(left), err)
				}
			}
			entries, err := os.ReadDir(dir)
			must(t, err)
			for _, e := range entries {
				if name := e.Name(); name != filepath.Base(out) && name != "default.castr" {
					t.Errorf("%v: left behind: %s", sig, name)
				}
			}
		}
	}
}
