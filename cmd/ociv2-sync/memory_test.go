package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

// measuredName is the name by which the test binary is the program and says at
// its end, in the file that measuredFile names, how much memory it had at its
// peak. What wait(2) says of a child is of no use: it counts the memory of the
// parent that the child began in.
const (
	measuredName = "ociv2-sync-measured"
	measuredFile = "MEASURED_FILE"
)

func measured() {
	code := run(os.Args[1:], os.Stdout, os.Stderr, os.LookupEnv)
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		err = os.WriteFile(os.Getenv(measuredFile), status, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = exitFailed
	}
	os.Exit(code)
}

// peak runs the program in a process of its own and returns the most memory it
// had resident, in bytes.
func (d *device) peak(args ...string) int64 {
	d.t.Helper()
	peak, out, err := d.measure(args...)
	if err != nil {
		d.t.Fatalf("ociv2-sync %q: %v\n%s", args, err, out)
	}
	return peak
}

// measure is peak for a program that may fail; it returns what that prints as well.
func (d *device) measure(args ...string) (peak int64, out []byte, err error) {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), "status")
	cmd := d.command(args...)
	cmd.Args[0] = measuredName
	cmd.Env = append(cmd.Env, measuredFile+"="+file)
	out, err = cmd.CombinedOutput()
	f, ferr := os.Open(file)
	must(d.t, ferr)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			var kib int64
			_, serr := fmt.Sscanf(rest, "%d kB", &kib)
			must(d.t, serr)
			return kib << 10, out, err
		}
	}
	d.t.Fatal("the kernel does not say how much memory a process had")
	return 0, nil, nil
}

// buildSized fills dir with megs files of a megabyte, a quarter of which does not
// compress, and with ten small ones for each.
func buildSized(t testing.TB, dir string, megs int) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(megs), 1))
	b := make([]byte, 1<<20)
	for i := range megs {
		sub := filepath.Join(dir, fmt.Sprintf("dir%03d", i))
		must(t, os.MkdirAll(sub, 0o755))
		for at := 0; at < len(b); at += 4096 {
			block := b[at : at+4096]
			for k := 0; k < 1024; k += 8 {
				v := r.Uint64()
				for n := range 8 {
					block[k+n] = byte(v >> (8 * n))
				}
			}
			for k := 1024; k < 4096; k += 1024 {
				copy(block[k:], block[:1024])
			}
		}
		must(t, os.WriteFile(filepath.Join(sub, "large"), b, 0o644))
		for k := range 10 {
			must(t, os.WriteFile(filepath.Join(sub, fmt.Sprint("small", k)), fmt.Appendf(nil, "%d %d", i, k), 0o644))
		}
	}
}

// TestMemory measures that the memory of push and pull is bounded, whatever the
// size of the image.
func TestMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has memory of its own")
	}
	if testing.Short() {
		t.Skip("writes a gigabyte")
	}
	const pushLimit, pullLimit = 256 << 20, 96 << 20
	var push, pull, full, again, source [2]int64
	for i, megs := range []int{60, 240} {
		dir := t.TempDir()
		tree := filepath.Join(dir, "tree")
		buildSized(t, tree, megs)
		d := newDevice(t)
		repo := filepath.Join(dir, "repo")
		push[i] = d.peak("push", "rootfs:"+tree, repo+"/app:1")
		_, url := setTrap(t, repo)
		pull[i] = d.peak("pull", url+"/app:1", "rootfs:"+filepath.Join(dir, "dest"))
		// With everything in a seed, and with nothing but the other chunks.
		again[i] = d.peak("pull", url+"/app:1", "rootfs:"+filepath.Join(dir, "dest"), "--replace", "--seed", tree)
		must(t, os.RemoveAll(filepath.Join(dir, "dest")))
		source[i] = d.peak("make", filepath.Join(dir, "x.caidx"), tree)
		full[i] = d.peak("extract", filepath.Join(dir, "x.caidx"), filepath.Join(dir, "dest"))
		must(t, os.RemoveAll(dir))
	}
	for _, tt := range []struct {
		name  string
		peak  [2]int64
		limit int64
	}{{"push", push, pushLimit}, {"pull", pull, pullLimit}, {"pull from a seed", again, pullLimit}, {"make", source, pushLimit}, {"extract", full, pullLimit}} {
		t.Logf("%s: %d MB for 60 MB, %d MB for 240 MB", tt.name, tt.peak[0]>>20, tt.peak[1]>>20)
		for _, p := range tt.peak {
			if p > tt.limit {
				t.Errorf("%s: %d bytes, at most %d are allowed", tt.name, p, tt.limit)
			}
		}
		// How much garbage there is below softMemory, to which comes the program, is chance.
		if grown := tt.peak[1] - max(tt.peak[0], softMemory+24<<20); grown > 24<<20 {
			t.Errorf("%s: %d bytes more for an image four times as large", tt.name, grown)
		}
	}
}

// TestMemoryOfEntries measures that an image with as many files as there may be by
// default can be published in 256 MB: one with a quarter of them, in the part of that
// which is theirs, beside a base of buffers, of garbage that softMemory leaves alone,
// and of the test binary. One with more is refused within as much.
func TestMemoryOfEntries(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has memory of its own")
	}
	const quarter, base, limit = translate.DefaultEntries / 4, 112 << 20, 256 << 20
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "many.tar.gz"))
	must(t, err)
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	must(t, err)
	w := tar.NewWriter(z)
	for i := range quarter {
		body := fmt.Sprint("content ", i)
		must(t, w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/share/doc/package%05d/file%07d.txt", i/30, i),
			Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1_600_000_000, 0),
		}))
		_, err := w.Write([]byte(body))
		must(t, err)
	}
	must(t, w.Close())
	must(t, z.Close())
	d := newDevice(t)
	repo := filepath.Join(dir, "repo")
	refused, out, err := d.measure("push", "--limit-entries", fmt.Sprint(quarter-1), "tar:"+f.Name(), repo+"/app:1")
	if want := fmt.Sprintf(`entry "usr/share/doc/package%05d/file%07d.txt": limit exceeded: entries above %d`, (quarter-1)/30, quarter-1, quarter-1); err == nil || !strings.Contains(string(out), want) {
		t.Errorf("%v: it does not say %s:\n%s", err, want, out)
	}
	if _, err := os.Stat(repo); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is published: %v", err)
	}
	pushed := d.peak("push", "tar:"+f.Name(), repo+"/app:1")
	t.Logf("push: %d MB for %d entries, %d MB to refuse them", pushed>>20, quarter, refused>>20)
	for _, peak := range []int64{pushed, refused} {
		if peak > base+(limit-base)/4 {
			t.Errorf("%d bytes for %d entries", peak, quarter)
		}
	}
}
