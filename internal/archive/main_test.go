package archive_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	disk "github.com/ociv2-sync/ociv2-sync/internal/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flags are the features that casync stores by default.
func flags(tb testing.TB) catar.Flags {
	tb.Helper()
	f, err := catar.ParseNames(nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return (f | catar.SHA512_256 | catar.ExcludeFile | catar.ExcludeNoDump).Normalize()
}

// casync runs casync and returns what it prints.
func casync(tb testing.TB, args ...string) string {
	tb.Helper()
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(tb.Context(), testutil.Tool(tb, "casync"), args...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		tb.Fatalf("casync %v: %v\n%s", args, err, stderr.Bytes())
	}
	return out.String()
}

// blob returns n bytes: noise, zeros and what compresses.
func blob(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+1000)
	for len(b) < n {
		switch r.IntN(3) {
		case 0:
			b = append(b, make([]byte, r.IntN(20_000))...)
		case 1:
			for range r.IntN(20_000) {
				b = append(b, byte(r.Uint32()))
			}
		default:
			b = append(b, bytes.Repeat([]byte("some words "), r.IntN(2000))...)
		}
	}
	return b[:n]
}

func write(tb testing.TB, path string, b []byte) string {
	tb.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func read(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// makeOf makes what the suffix of output says.
func makeOf(tb testing.TB, source, output string, change func(*archive.MakeOptions)) *archive.Made {
	tb.Helper()
	opts := archive.MakeOptions{
		Kind: archive.KindOf(output), Flags: flags(tb), Params: chunk.DefaultParams(),
		Store: filepath.Join(filepath.Dir(output), "default.castr"),
	}
	if opts.Kind == archive.BlobIndex {
		opts.Flags = archive.BlobFlags(opts.Flags, false)
	}
	if change != nil {
		change(&opts)
	}
	made, err := archive.Make(tb.Context(), source, output, nil, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return made
}

// open opens an input, which the test closes.
func open(tb testing.TB, name string) *archive.Input {
	tb.Helper()
	in, err := archive.Open(tb.Context(), name, archive.OpenOptions{Flags: flags(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := in.Close(); err != nil {
			tb.Error(err)
		}
	})
	return in
}

// everything are the options that restore all there is.
func everything(tb testing.TB) archive.ExtractOptions {
	tb.Helper()
	return archive.ExtractOptions{Tree: disk.ExtractOptions{Flags: flags(tb), PunchHoles: true}, SeedOutput: true}
}

func setXAttr(path, name, value string) error {
	return unix.Lsetxattr(path, name, []byte(value), 0)
}

func lutimes(path string, at time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
}

func extract(tb testing.TB, name, dest string) {
	tb.Helper()
	if _, err := archive.Extract(tb.Context(), open(tb, name), dest, everything(tb)); err != nil {
		tb.Fatal(err)
	}
}
