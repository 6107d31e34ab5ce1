package archive_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

var update = flag.Bool("update", false, "write testdata/conformance from what casync makes")

// goldens has, for each case, the SHA-256 of everything that casync made of it.
const goldens = "../../testdata/conformance/matrix.txt"

// matrixTrees are the trees of the matrix: each fills a new directory.
var matrixTrees = map[string]func(*testing.T, string){
	"sizes": func(t *testing.T, dir string) {
		// Around the limits of chunks, of blocks and of the rolling window.
		for _, n := range []int{0, 1, 47, 48, 49, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, 262143, 262144, 262145, 1 << 20} {
			write(t, filepath.Join(dir, fmt.Sprint(n)), blob(n, uint64(n)))
		}
	},
	"names": func(t *testing.T, dir string) {
		for _, name := range []string{
			" ", "a b", "a\tb", "new\nline", "-rf", "~", "#", "\\", "*?[]", "\x01", "\x7f", "\xff\xfe", "ü", "日本", "a", "aa", "a.", "a-",
			"a:b", "a@b", ".hidden", "...", strings.Repeat("x", 237),
		} {
			write(t, filepath.Join(dir, name), []byte(name))
		}
		for i, target := range []string{"x", "../..", "/abs/olute", "with space", strings.Repeat("y", 4095)} {
			must(t, os.Symlink(target, filepath.Join(dir, fmt.Sprint("link", i))))
		}
	},
	"metadata": func(t *testing.T, dir string) { testutil.BuildTree(t, dir) },
	// Without what casync stores otherwise: the mask of an ACL that is dropped
	// (docs/format/catar.md), and ids that some sets cannot have.
	"plain": func(t *testing.T, dir string) {
		testutil.BuildTree(t, dir)
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			must(t, err)
			for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
				if err := unix.Lremovexattr(path, name); err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
					return err
				}
			}
			var st unix.Stat_t
			must(t, unix.Lstat(path, &st))
			if st.Uid|st.Gid > 0xfff0 {
				return unix.Lchown(path, int(st.Uid&0xfff), int(st.Gid&0xfff))
			}
			return nil
		}))
	},
	"sparse": func(t *testing.T, dir string) {
		for name, size := range map[string]int64{"hole": 3 << 20, "data, hole": 2<<20 + 5, "hole, data": 1 << 20} {
			f, err := os.Create(filepath.Join(dir, name))
			must(t, err)
			if strings.HasPrefix(name, "data") {
				_, err = f.Write(blob(100_000, 1))
				must(t, err)
			}
			must(t, f.Truncate(size))
			if strings.HasSuffix(name, ", data") {
				_, err = f.WriteAt([]byte("the end"), size)
				must(t, err)
			}
			must(t, f.Close())
		}
	},
	"many": func(t *testing.T, dir string) {
		for i := range 2000 {
			write(t, filepath.Join(dir, fmt.Sprintf("%x", i*i)), fmt.Append(nil, i))
		}
	},
	"deep": func(t *testing.T, dir string) {
		for i := range 60 {
			dir = filepath.Join(dir, fmt.Sprint("d", i))
			must(t, os.Mkdir(dir, 0o750))
		}
		write(t, filepath.Join(dir, "file"), blob(10_000, 6))
	},
	"excludes": func(t *testing.T, dir string) {
		for _, d := range []string{"keep", "drop", "keep/sub", "keep/sub/drop"} {
			must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
			for _, f := range []string{"a.o", "b.c", ".o", "tmp", "important.o"} {
				write(t, filepath.Join(dir, d, f), []byte(f))
			}
		}
		write(t, filepath.Join(dir, ".caexclude"), []byte("# objects\n*.o\ndrop/\n/keep/b.c\n!important.o\n"))
		write(t, filepath.Join(dir, "keep/sub/.caexclude"), []byte("tmp\n"))
	},
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// matrixTree builds a tree that is the same everywhere, but for metadata's,
// which sets its own times and owners.
func matrixTree(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	must(t, os.Mkdir(dir, 0o755))
	matrixTrees[name](t, dir)
	var dirs []string
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		if d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	}))
	if name == "metadata" || name == "plain" {
		return dir
	}
	when := time.Unix(1_500_000_000, 123_456_789)
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		must(t, err)
		return lutimes(path, when)
	}))
	slices.Reverse(dirs)
	for _, d := range dirs {
		must(t, lutimes(d, when))
	}
	return dir
}

// cell is one case of the matrix.
type cell struct {
	tree, digest string
	with         []string // casync's options, --with and --without
	size         string
}

func (c cell) String() string {
	return strings.Join(append([]string{c.tree, c.digest, c.size}, c.with...), " ")
}

// cells are the cases: every tree with both digests, every set of features, and
// many chunk sizes.
func cells() []cell {
	var all []cell
	names := []string{"--without=user-names"} // which are the host's
	for tree := range matrixTrees {
		for _, digest := range []string{"sha512-256", "sha256"} {
			all = append(all, cell{tree, digest, names, "auto"})
		}
	}
	for _, set := range []string{
		"--with=unix", "--with=fat", "--with=chattr", "--with=fat-attrs", "--with=privileged", "--with=fuse", "--without=all", "--without=privileged",
		"--without=acl", "--without=xattrs", "--without=best", "--with=16bit-uids", "--with=32bit-uids", "--with=sec-time", "--with=usec-time",
		"--with=nsec-time", "--with=2sec-time", "--with=read-only", "--with=permissions", "--with=symlinks", "--with=device-nodes", "--with=fifos",
		"--with=sockets", "--with=xattrs", "--with=acl", "--with=fcaps", "--with=quota-projid", "--with=flag-immutable", "--with=flag-append",
		"--with=best", "--with=flag-hidden", "--with=flag-system", "--with=flag-archive", "--with=flag-noatime", "--with=flag-compr", "--with=flag-nocow",
		"--with=flag-nodump", "--with=flag-dirsync", "--with=flag-sync", "--with=flag-nocomp", "--with=flag-projinherit", "--with=subvolume",
		"--with=subvolume-ro", "--with=selinux", "--without=unix", "--without=fat", "--without=chattr", "--without=fat-attrs", "--without=fuse",
	} {
		tree := "metadata"
		if slices.Contains([]string{"--with=unix", "--with=fuse", "--with=permissions", "--with=16bit-uids", "--without=acl", "--without=best", "--without=privileged"}, set) {
			tree = "plain"
		}
		all = append(all, cell{tree, "sha512-256", append([]string{set}, names...), "64K"})
	}
	for _, size := range []string{"2K", "4K", "16K", "100K", "256K", "1M", "16K:16K:16K", "4096:4096:16384", "1000:5000:5000", "10000:10000:10000", "2K:8K:9K", "1M:2M:4M"} {
		all = append(all, cell{"sizes", "sha512-256", names, size})
	}
	slices.SortFunc(all, func(a, b cell) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// options are those of a case for us.
func (c cell) options(t *testing.T, o *archive.MakeOptions) {
	t.Helper()
	var with, without []string
	for _, w := range c.with {
		if name, ok := strings.CutPrefix(w, "--with="); ok {
			with = append(with, name)
		} else {
			without = append(without, strings.TrimPrefix(w, "--without="))
		}
	}
	f, err := catar.ParseNames(with, without)
	must(t, err)
	f |= catar.ExcludeFile | catar.ExcludeNoDump
	if c.digest == "sha512-256" {
		f |= catar.SHA512_256
	}
	o.Flags = f.Normalize()
	if o.Kind == archive.BlobIndex {
		o.Flags = archive.BlobFlags(o.Flags, len(with) > 0)
	}
	o.Params, err = chunk.ParseParams(c.size)
	must(t, err)
}

// result is everything that is compared of a case, by its name.
type result map[string][]byte

// line is the case as it is in the goldens.
func (r result) line(c cell) string {
	h := sha256.New()
	for _, kind := range []string{"catar", "caidx", "caibx", "list", "mtree", "digest"} {
		fmt.Fprintf(h, "%s %d\n%s", kind, len(r[kind]), r[kind])
	}
	return fmt.Sprintf("%x %s\n", h.Sum(nil), c)
}

// ours and theirs make everything of a case from a tree.
func ours(t *testing.T, c cell, source, dir string) result {
	r := result{}
	change := func(o *archive.MakeOptions) { c.options(t, o) }
	for _, kind := range []string{"catar", "caidx", "caibx"} {
		from := source
		if kind == "caibx" {
			from = filepath.Join(dir, "x.catar")
		}
		name := filepath.Join(dir, "x."+kind)
		makeOf(t, from, name, change)
		r[kind] = read(t, name)
	}
	for _, verb := range []string{"list", "mtree"} {
		r[verb] = []byte(text(t, verb, filepath.Join(dir, "x.caidx"), ""))
	}
	r["digest"] = []byte(text(t, "digest", filepath.Join(dir, "x.caidx"), ""))
	return r
}

func theirs(t *testing.T, c cell, source, dir string) result {
	r := result{}
	args := append([]string{"--digest=" + c.digest, "--chunk-size=" + c.size}, c.with...)
	if c.size == "auto" {
		args = slices.Delete(args, 1, 2)
	}
	for _, kind := range []string{"catar", "caidx", "caibx"} {
		from := source
		if kind == "caibx" {
			from = filepath.Join(dir, "x.catar")
		}
		name := filepath.Join(dir, "x."+kind)
		casync(t, append([]string{"make", name, from}, args...)...)
		r[kind] = read(t, name)
	}
	for _, verb := range []string{"list", "mtree", "digest"} {
		if slices.Contains(c.with, "--with=usec-time") || slices.Contains(c.with, "--without=best") { // which leaves them
			// What it has made with these times, casync refuses to read.
			for _, verb := range []string{"list", "mtree", "digest"} {
				r[verb] = []byte(text(t, verb, filepath.Join(dir, "x.caidx"), ""))
			}
			break
		}
		r[verb] = []byte(casync(t, append([]string{verb, filepath.Join(dir, "x.caidx")}, args...)...))
	}
	return r
}

// TestMatrix compares, byte for byte, what we and casync make of many trees,
// features and chunk sizes: archives, indexes of both kinds (and so all chunks),
// list, mtree and digest. Without casync it compares with what casync made when
// scripts/gen-testdata ran.
func TestMatrix(t *testing.T) {
	testutil.NeedRoot(t)
	_, err := exec.LookPath("casync")
	live := *update || err == nil
	golden := map[string]bool{}
	if !*update {
		for line := range bytes.Lines(read(t, goldens)) {
			golden[string(line)] = true
		}
	}
	var lines strings.Builder
	trees := map[string]string{}
	for _, c := range cells() {
		if trees[c.tree] == "" {
			trees[c.tree] = matrixTree(t, c.tree)
		}
		t.Run(c.String(), func(t *testing.T) {
			a, b := memory(t), memory(t)
			we := ours(t, c, trees[c.tree], a)
			if live {
				they := theirs(t, c, trees[c.tree], b)
				for kind := range they {
					if !bytes.Equal(we[kind], they[kind]) {
						t.Errorf("%s differs from casync's:\n%s", kind, firstDifference(we[kind], they[kind]))
					}
				}
				lines.WriteString(they.line(c))
			}
			if !*update && !golden[we.line(c)] {
				t.Errorf("not what casync made")
			}
			once := c.tree != "many" || c.digest != "sha256" // it is slow, and says nothing new
			if live && once && c.size == "auto" && !strings.Contains(c.tree, "excl") {
				exchange(t, trees[c.tree], a, b)
			}
		})
	}
	if *update && !t.Failed() {
		must(t, os.MkdirAll(filepath.Dir(goldens), 0o755))
		must(t, os.WriteFile(goldens, []byte(lines.String()), 0o644))
	}
}

// exchange extracts ours with casync and casync's with us; both must be the
// tree that they were made of.
func exchange(t *testing.T, source, ours, theirs string) {
	t.Helper()
	dir := t.TempDir()
	byCasync, byUs := filepath.Join(dir, "casync"), filepath.Join(dir, "us")
	casync(t, "extract", filepath.Join(ours, "x.caidx"), byCasync)
	extract(t, filepath.Join(theirs, "x.caidx"), byUs)
	for _, got := range []string{byCasync, byUs} {
		testutil.CompareTrees(t, source, got, testutil.Without(testutil.HardLinks))
	}
}

func firstDifference(a, b []byte) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	from := max(0, i-60)
	return fmt.Sprintf("at byte %d\nours   %q\ncasync %q", i, a[from:min(len(a), i+60)], b[from:min(len(b), i+60)])
}
