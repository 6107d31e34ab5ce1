package archive_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/folbricht/desync"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// unseen is a progress bar that nobody sees.
type unseen struct{ io.Writer }

func (unseen) SetTotal(int)   {}
func (unseen) Start()         {}
func (unseen) Finish()        {}
func (unseen) Increment() int { return 0 }
func (unseen) Add(int) int    { return 0 }
func (unseen) Set(int)        {}

// desyncKnows takes from a tree what desync cannot exchange: FIFOs and sockets
// become directories with it, it refuses a backslash in a name, and xattrs whose
// values are empty or have zeros, and writes capabilities as XATTR records.
func desyncKnows(t *testing.T, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		odd := strings.Contains(path, "\\") || strings.HasSuffix(path, "/attributes/user")
		if err == nil && (odd || d.Type()&(fs.ModeNamedPipe|fs.ModeSocket) != 0) {
			return os.Remove(path)
		}
		if e := unix.Lremovexattr(path, "security.capability"); err == nil && !errors.Is(e, unix.ENODATA) && !errors.Is(e, unix.EOPNOTSUPP) {
			err = e
		}
		return err
	}))
}

// desyncDrops is what desync gets wrong: the times of symbolic links, and that of
// 1970; it ends the values of xattrs with a zero, and takes the last byte off.
func desyncDrops(t *testing.T, source string) func(string) testutil.Aspect {
	return func(path string) testutil.Aspect {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(source, path), &st))
		if st.Mode&unix.S_IFMT == unix.S_IFLNK || st.Mtim == (unix.Timespec{}) {
			return testutil.HardLinks | testutil.Time
		}
		return testutil.HardLinks | testutil.XAttrs
	}
}

// desyncs is what desync makes of a tree: an archive, and its index with a store.
func desyncs(t *testing.T, source, dir string) {
	t.Helper()
	var b bytes.Buffer
	must(t, desync.Tar(t.Context(), &b, desync.NewLocalFS(source, desync.LocalFSOptions{})))
	file := write(t, filepath.Join(dir, "x.catar"), b.Bytes())
	p := chunk.DefaultParams()
	x, _, err := desync.IndexFromFile(t.Context(), file, 2, p.Min, p.Avg, p.Max, unseen{})
	must(t, err)
	x.Index.FeatureFlags |= desync.TarFeatureFlags
	castr := filepath.Join(dir, "default.castr")
	must(t, os.Mkdir(castr, 0o755))
	s, err := desync.NewLocalStore(castr, desync.StoreOptions{})
	must(t, err)
	must(t, desync.ChopFile(t.Context(), file, x.Chunks, s, 2, unseen{}))
	var index bytes.Buffer
	_, err = x.WriteTo(&index)
	must(t, err)
	write(t, filepath.Join(dir, "x.caidx"), index.Bytes())
}

// TestDesyncTrees exchanges archives and indexes of trees with desync, in both
// directions and with both digests, and compares what is extracted attribute by
// attribute.
func TestDesyncTrees(t *testing.T) {
	testutil.NeedRoot(t)
	for _, tree := range []string{"sizes", "names", "sparse", "deep", "plain"} {
		source := matrixTree(t, tree)
		desyncKnows(t, source)
		for _, digest := range []string{"sha512-256", "sha256"} {
			if digest == "sha256" && tree == "names" {
				continue // it says no more
			}
			t.Run(tree+" "+digest, func(t *testing.T) {
				flags := catar.Flags(desync.TarFeatureFlags) &^ catar.SHA512_256
				old := desync.Digest
				defer func() { desync.Digest = old }()
				desync.Digest = desync.SHA256{}
				if digest == "sha512-256" {
					desync.Digest = desync.SHA512256{}
					flags |= catar.SHA512_256
				}

				// Ours for desync.
				ours := t.TempDir()
				for _, name := range []string{"x.catar", "x.caidx"} {
					makeOf(t, source, filepath.Join(ours, name), func(o *archive.MakeOptions) { o.Flags = flags })
				}
				out := filepath.Join(ours, "catar")
				must(t, os.Mkdir(out, 0o755))
				must(t, desync.UnTar(t.Context(), bytes.NewReader(read(t, filepath.Join(ours, "x.catar"))), desync.NewLocalFS(out, desync.LocalFSOptions{})))
				testutil.CompareTrees(t, source, out, desyncDrops(t, source))
				x, err := desync.IndexFromReader(bytes.NewReader(read(t, filepath.Join(ours, "x.caidx"))))
				must(t, err)
				s, err := desync.NewLocalStore(filepath.Join(ours, "default.castr"), desync.StoreOptions{})
				must(t, err)
				out = filepath.Join(ours, "caidx")
				must(t, os.Mkdir(out, 0o755))
				must(t, desync.UnTarIndex(t.Context(), desync.NewLocalFS(out, desync.LocalFSOptions{}), x, s, 2, unseen{}))
				testutil.CompareTrees(t, source, out, desyncDrops(t, source))

				// desync's for us.
				if digest == "sha256" {
					return // its archives always say SHA-512/256
				}
				theirs := t.TempDir()
				desyncs(t, source, theirs)
				for _, name := range []string{"x.catar", "x.caidx"} {
					out := filepath.Join(theirs, "of "+name)
					extract(t, filepath.Join(theirs, name), out)
					testutil.CompareTrees(t, source, out, testutil.Without(testutil.HardLinks|testutil.XAttrs))
				}
			})
		}
	}
}
