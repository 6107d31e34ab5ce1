package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// The releases of a test: some 6 MB that do not compress, in some 90 chunks.
const (
	releaseFiles = 60
	fileSize     = 100 << 10
)

// buildRelease fills dir with a release. Release 1 has a bit of everything and
// some files; each later one has six other contents and one file more.
func buildRelease(t testing.TB, dir string, n int) {
	t.Helper()
	testutil.BuildTree(t, dir)
	lib := filepath.Join(dir, "usr/lib")
	must(t, os.MkdirAll(lib, 0o755))
	for i := range releaseFiles + n - 1 {
		seed := uint64(i)
		if n > 1 && i%10 == n%10 {
			seed += uint64(n) << 32
		}
		writeNoise(t, filepath.Join(lib, fmt.Sprintf("lib%02d.so", i)), seed, fileSize)
	}
	must(t, os.WriteFile(filepath.Join(dir, "release"), fmt.Appendf(nil, "release %d\n", n), 0o644))
	for _, d := range []string{lib, filepath.Join(dir, "usr"), dir} {
		setTime(t, d)
	}
}

// writeNoise writes bytes that do not compress, always the same for a seed.
func writeNoise(t testing.TB, path string, seed uint64, size int) {
	t.Helper()
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 32), byte(seed >> 40)})
	b := make([]byte, size)
	_, _ = r.Read(b)
	must(t, os.WriteFile(path, b, 0o644))
	setTime(t, path)
}

func setTime(t testing.TB, path string) {
	t.Helper()
	when := time.Unix(1_700_000_000, 123_456_789)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{
		unix.NsecToTimespec(when.UnixNano()), unix.NsecToTimespec(when.UnixNano()),
	}, unix.AT_SYMLINK_NOFOLLOW))
}

// publication is a repository with the releases 1 and 2 of the image app, under
// the tags 1 and 2, and the trees that they were made of.
type publication struct {
	repo     string
	releases [2]string
}

func (p *publication) ref(tag int) string { return fmt.Sprintf("%s/app:%d", p.repo, tag) }

func publish(t testing.TB) *publication {
	t.Helper()
	dir := t.TempDir()
	p := &publication{repo: filepath.Join(dir, "repo")}
	d := newDevice(t)
	for i := range p.releases {
		p.releases[i] = filepath.Join(dir, fmt.Sprintf("release%d", i+1))
		buildRelease(t, p.releases[i], i+1)
		d.must("push", "--deltas=0", "rootfs:"+p.releases[i], p.ref(i+1))
	}
	return p
}
