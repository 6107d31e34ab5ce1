package archive_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// extractBlob extracts an index and compares the result with what it should be.
func extractBlob(t *testing.T, index, dest string, want []byte, opts archive.BlobOptions) *archive.Extracted {
	t.Helper()
	in := open(t, index)
	done, err := archive.ExtractBlob(t.Context(), in, dest, opts)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, dest); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, want %d; or others", len(got), len(want))
	}
	if n := done.InPlace + done.Seeded + done.Fetched; n != len(in.Index.Chunks) {
		t.Errorf("%+v of %d chunks", *done, len(in.Index.Chunks))
	}
	return done
}

func TestExtractBlobInPlace(t *testing.T) {
	dir := t.TempDir()
	want := blob(3<<20, 1)
	index := filepath.Join(dir, "x.caibx")
	makeOf(t, write(t, filepath.Join(dir, "x"), want), index, nil)
	dest := filepath.Join(dir, "dest")
	total := len(open(t, index).Index.Chunks)
	for _, tt := range []struct {
		name    string
		had     []byte
		fetched int // at most
	}{
		{"the same", want, 0},
		{"longer", append(want[:len(want):len(want)], blob(500_000, 2)...), 2},
		{"shorter", want[:len(want)/2], total},
		{"empty", nil, total},
		{"shifted to the right", append(blob(12_345, 3), want...), 3},
		{"shifted to the left", want[123_456:], 6},
		{"halves exchanged", slices.Concat(want[len(want)/2:], want[:len(want)/2]), 5},
		{"changed in the middle", slices.Concat(want[:1<<20], []byte("changed"), want[1<<20+7:]), 3},
		{"something else", blob(4<<20, 9), total},
		{"zeros", make([]byte, 5<<20), total},
	} {
		for _, punch := range []bool{true, false} {
			inode := func() uint64 { return stat(t, dest).Ino }
			write(t, dest, tt.had)
			before := inode()
			done := extractBlob(t, index, dest, want, archive.BlobOptions{SeedOutput: true, PunchHoles: punch})
			if done.Fetched > tt.fetched {
				t.Errorf("%s: %+v of %d, at most %d to be fetched", tt.name, *done, total, tt.fetched)
			}
			if inode() != before {
				t.Errorf("%s: it is another file", tt.name)
			}
		}
		write(t, dest, tt.had)
		if done := extractBlob(t, index, dest, want, archive.BlobOptions{}); done.Fetched != total {
			t.Errorf("%s without the output as a seed: %+v", tt.name, *done)
		}
	}
}

func TestExtractBlobSeeds(t *testing.T) {
	dir := t.TempDir()
	want := blob(2<<20, 1)
	index := filepath.Join(dir, "x.caibx")
	makeOf(t, write(t, filepath.Join(dir, "x"), want), index, nil)
	castr := filepath.Join(dir, "default.castr")
	seed := write(t, filepath.Join(dir, "seed"), append(blob(100_000, 4), want...))
	dest := filepath.Join(dir, "dest")
	for range 2 { // without its index, and with it
		done := extractBlob(t, index, dest, want, archive.BlobOptions{Seeds: []string{seed}, Reflink: true})
		if done.Fetched > 4 || done.Seeded == 0 {
			t.Errorf("%+v", *done)
		}
		if err := os.Remove(dest); err != nil {
			t.Fatal(err)
		}
		makeOf(t, seed, seed+".caibx", func(o *archive.MakeOptions) { o.Store = filepath.Join(dir, "other.castr") })
	}
	// A seed that is not what its index says is of no use, and does no harm.
	write(t, seed, blob(3<<20, 8))
	if done := extractBlob(t, index, dest, want, archive.BlobOptions{Seeds: []string{seed}}); done.Seeded != 0 {
		t.Errorf("a lying seed: %+v", *done)
	}
	for _, bad := range []string{dir, filepath.Join(dir, "nothing")} {
		if _, err := archive.ExtractBlob(t.Context(), open(t, index), filepath.Join(dir, "new"), archive.BlobOptions{Seeds: []string{bad}}); err == nil {
			t.Errorf("the seed %s: no error", bad)
		}
	}
	// With a damaged store nothing new appears.
	if err := os.RemoveAll(castr); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(castr, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := archive.ExtractBlob(t.Context(), open(t, index), filepath.Join(dir, "new"), archive.BlobOptions{})
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an empty store: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*new*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
}

func TestExtractBlobSparse(t *testing.T) {
	dir := t.TempDir()
	want := slices.Concat(blob(100_000, 1)[:50_001], make([]byte, 8<<20), []byte("x"), make([]byte, 5000), blob(1000, 2), make([]byte, 1<<20))
	index := filepath.Join(dir, "x.caibx")
	makeOf(t, write(t, filepath.Join(dir, "x"), want), index, nil)
	for punch, most := range map[bool]int64{true: 200 << 10, false: 1 << 40} {
		dest := filepath.Join(dir, "dest")
		extractBlob(t, index, dest, want, archive.BlobOptions{PunchHoles: punch})
		if n := stat(t, dest).Blocks * 512; n > most || !punch && n < int64(len(want)) {
			t.Errorf("punch %v: %d bytes on the disk", punch, n)
		}
		if err := os.Remove(dest); err != nil {
			t.Fatal(err)
		}
	}
	// Over a file full of data.
	dest := write(t, filepath.Join(dir, "dest"), blob(len(want), 7))
	extractBlob(t, index, dest, want, archive.BlobOptions{PunchHoles: true, SeedOutput: true})
	if n := stat(t, dest).Blocks * 512; n > 1<<20 {
		t.Errorf("in place: %d bytes on the disk", n)
	}
}

// TestExtractBlobDevice writes over a block device, which keeps its length.
func TestExtractBlobDevice(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.Need(t, "losetup")
	dir := t.TempDir()
	want := blob(2<<20, 1)
	index := filepath.Join(dir, "x.caibx")
	makeOf(t, write(t, filepath.Join(dir, "x"), want), index, nil)
	for size, wantErr := range map[int]error{3 << 20: nil, 1 << 20: syscall.ENOSPC} {
		back := write(t, filepath.Join(dir, "back"), blob(size, 5))
		out, err := exec.CommandContext(t.Context(), "losetup", "--show", "-f", back).CombinedOutput()
		if err != nil {
			t.Skipf("no loop device: %s", out)
		}
		device := strings.TrimSpace(string(out))
		_, err = archive.ExtractBlob(t.Context(), open(t, index), device, archive.BlobOptions{SeedOutput: true, PunchHoles: true})
		if !errors.Is(err, wantErr) {
			t.Errorf("%d bytes: %v, want %v", size, err, wantErr)
		}
		if err == nil {
			if got := read(t, device); len(got) != size || !bytes.Equal(got[:len(want)], want) {
				t.Errorf("the device has %d bytes, or others", len(got))
			}
			if _, err := archive.VerifyTarget(t.Context(), open(t, index), device, func(archive.Range) error { return nil }); err != nil {
				t.Errorf("a longer device: %v", err)
			}
			ofDevice, ofFile := filepath.Join(dir, "device.caibx"), filepath.Join(dir, "file.caibx")
			makeOf(t, device, ofDevice, nil)
			makeOf(t, write(t, filepath.Join(dir, "copy"), read(t, device)), ofFile, nil)
			if !bytes.Equal(read(t, ofDevice), read(t, ofFile)) {
				t.Error("the device has another index than a file with its bytes")
			}
			write(t, device, []byte("damaged"))
			if _, err := archive.VerifyTarget(t.Context(), open(t, index), device, func(archive.Range) error { return nil }); !errors.Is(err, archive.ErrDamaged) {
				t.Errorf("a damaged device: %v", err)
			}
		}
		if out, err := exec.CommandContext(t.Context(), "losetup", "-d", device).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
	}
}

// TestReflink shares blocks with a seed where the filesystem can.
func TestReflink(t *testing.T) {
	testutil.NeedRoot(t)
	for _, name := range []string{"xfs", "btrfs"} {
		t.Run(name, func(t *testing.T) {
			dir := loop(t, name)
			want := blob(8<<20, 1)
			index := filepath.Join(dir, "x.caibx")
			makeOf(t, write(t, filepath.Join(dir, "x"), want), index, nil)
			seed := write(t, filepath.Join(dir, "seed"), append(blob(8192, 4), want...))
			for reflink, shared := range map[bool]bool{true: true, false: false} {
				dest := filepath.Join(dir, "dest")
				extractBlob(t, index, dest, want, archive.BlobOptions{Seeds: []string{seed}, Reflink: reflink})
				out, err := exec.CommandContext(t.Context(), "filefrag", "-sv", dest).Output()
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(out), "shared") != shared {
					t.Errorf("reflink %v:\n%s", reflink, out)
				}
				if err := os.Remove(dest); err != nil {
					t.Fatal(err)
				}
			}
			reflinkTree(t, dir)
		})
	}
}

func stat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t)
}

// An archive is no blob, and a directory no place for one.
func TestExtractKinds(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "x"), []byte("x"))
	makeOf(t, file, file+".caibx", nil)
	if _, err := archive.Extract(t.Context(), open(t, file+".caibx"), filepath.Join(dir, "y"), everything(t)); !errors.Is(err, archive.ErrUsage) {
		t.Error(err)
	}
	if _, err := archive.ExtractBlob(t.Context(), open(t, file+".caibx"), dir, archive.BlobOptions{}); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestExtractHoles extracts 40 GB of zeros, which take no room.
func TestExtractHoles(t *testing.T) {
	dir := t.TempDir()
	params := chunk.DefaultParams()
	zeros := make([]byte, params.Max)
	makeOf(t, write(t, filepath.Join(dir, "zeros"), zeros), filepath.Join(dir, "zeros.caibx"), nil)
	x := &caibx.Index{FeatureFlags: uint64(catar.SHA512_256), Params: params}
	id := chunk.SHA512_256.Sum(zeros)
	const size = 40 << 30
	for end := params.Max; end <= size; end += params.Max {
		x.Chunks = append(x.Chunks, caibx.Chunk{End: end, ID: id})
	}
	f, err := os.Create(filepath.Join(dir, "x.caibx"))
	must(t, err)
	_, err = x.WriteTo(f)
	must(t, errors.Join(err, f.Close()))
	dest := filepath.Join(dir, "dest")
	done, err := archive.ExtractBlob(t.Context(), open(t, f.Name()), dest, archive.BlobOptions{PunchHoles: true})
	must(t, err)
	if st := stat(t, dest); st.Size != size || st.Blocks > 16 || done.Fetched != len(x.Chunks) {
		t.Errorf("%d bytes in %d blocks; %+v", st.Size, st.Blocks, *done)
	}
}
