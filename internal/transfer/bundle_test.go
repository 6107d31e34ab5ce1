package transfer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/offline"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// pushFiles makes a tree of files and pushes it.
func pushFiles(t *testing.T, dir, tag string, deltas int, files map[string][]byte) (tree string, ref repo.Ref) {
	t.Helper()
	tree = filepath.Join(t.TempDir(), "tree")
	for name, b := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(tree, name), b, 0o644))
	}
	ref = parseRef(t, dir+"/app:"+tag)
	_, err := Push(t.Context(), "rootfs:"+tree, ref, PushOptions{Deltas: deltas})
	must(t, err)
	return tree, ref
}

func randomBytes(n int, source byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{source}).Read(b)
	return b
}

// changed returns b with the byte at an offset changed.
func changed(b []byte, at int) []byte {
	b = slices.Clone(b)
	b[at] ^= 0xff
	return b
}

// bundleFor bundles an image for devices that have others, without deltas unless they are
// wanted.
func bundleFor(t *testing.T, ref repo.Ref, how DeltaPolicy, have ...repo.Ref) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bundle")
	_, err := MakeBundle(t.Context(), ref, file, BundleOptions{Have: have, TempDir: t.TempDir(), Pull: PullOptions{Deltas: how}})
	must(t, err)
	return file
}

// inBundle returns the files of a bundle.
func inBundle(t *testing.T, file string) map[string][]byte {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	files := make(map[string][]byte)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		must(t, err)
		files[h.Name], err = io.ReadAll(r)
		must(t, err)
	}
}

// chunksOf returns the names of the chunks that a plan fetches.
func chunksOf(p *seed.Plan) (names []string) {
	for i := range p.Chunks {
		if c := &p.Chunks[i]; c.Origin == seed.Fetched {
			names = append(names, fmt.Sprintf("default.castr/%.4s/%s.cacnk", c.ID, c.ID))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// pullBundle pulls what is in a bundle to a new directory.
func pullBundle(t *testing.T, file string, opts PullOptions) (*Pulled, string, error) {
	t.Helper()
	b, err := offline.Open(file)
	must(t, err)
	opts.Bundle, opts.Dest = b, Dest{Kind: RootFS, Path: filepath.Join(t.TempDir(), "dest")}
	p, err := Pull(t.Context(), b.Ref(), opts, nil)
	return p, opts.Dest.Path, err
}

// A bundle has the chunks that a pull over a network would fetch and no others: those that
// lie in older versions of the files it counts on, whatever else the device has, and in
// whatever form.
func TestBundleCountsOnParts(t *testing.T) {
	dir := t.TempDir()
	lib, other := randomBytes(600_000, 1), randomBytes(200_000, 2)
	old := map[string][]byte{"lib.so.1": lib, "etc/other.1": other, "same": []byte("same")}
	oldTree, have := pushFiles(t, dir, "1", 0, old)
	tree, ref := pushFiles(t, dir, "2", 0, map[string][]byte{"lib.so.2": changed(lib, 300_000), "etc/other.2": changed(other, 5), "same": []byte("same")})
	file := bundleFor(t, ref, DeltaNever, have)

	device := newOptions(t)
	_, err := Pull(t.Context(), have, device, nil)
	must(t, err)
	device.Deltas = DeltaNever
	plan, err := Prepare(t.Context(), ref, device)
	must(t, err)
	defer func() { must(t, plan.Close()) }()
	files := inBundle(t, file)
	var got []string
	var wire int64
	for name, b := range files {
		if strings.HasSuffix(name, ".cacnk") {
			got, wire = append(got, name), wire+int64(len(b))
		}
	}
	slices.Sort(got)
	if want := chunksOf(plan.Plan); !slices.Equal(got, want) || wire != plan.Plan.PerOrigin(seed.Fetched).Wire {
		t.Errorf("%d chunks, %d bytes, in the bundle, %d, %d bytes, in the plan", len(got), wire, len(want), plan.Plan.PerOrigin(seed.Fetched).Wire)
	}
	if plan.Plan.PerOrigin(seed.Seeded).Chunks == 0 {
		t.Error("nothing was found in parts of files")
	}

	lists := func(t *testing.T, seeds ...string) PullOptions {
		opts := newOptions(t)
		opts.Seeds = seeds
		return opts
	}
	renamed := filepath.Join(t.TempDir(), "renamed")
	must(t, os.Mkdir(renamed, 0o755))
	for name, b := range old {
		must(t, os.WriteFile(filepath.Join(renamed, strings.ReplaceAll(name, "/", "")+"-x"), b, 0o600))
	}
	layout := filepath.Join(t.TempDir(), "layout")
	opts := newOptions(t)
	opts.Dest = Dest{Kind: OCI, Path: layout, Ref: "1"}
	_, err = Pull(t.Context(), have, opts, nil)
	must(t, err)
	for name, opts := range map[string]PullOptions{
		"root":                    device,
		"directory":               lists(t, oldTree),
		"directory, other names":  lists(t, renamed),
		"layout":                  lists(t, layout),
		"layout, then directory":  lists(t, layout, oldTree),
		"directory of everything": lists(t, filepath.Dir(oldTree), layout, renamed),
	} {
		t.Run(name, func(t *testing.T) {
			p, dest, err := pullBundle(t, file, opts)
			must(t, err)
			testutil.CompareTrees(t, tree, dest)
			if p.Stats.Fetched != len(got) || len(p.Stats.Lost) != 0 {
				t.Errorf("stats %+v, want %d chunks", p.Stats, len(got))
			}
		})
	}

	// Many nearer relatives of the files: re-cutting looks into a few alone.
	t.Run("device that has more", func(t *testing.T) {
		for i := range 5 {
			_, more := pushFiles(t, dir, fmt.Sprint("more", i), 0, map[string][]byte{"lib.so.2": randomBytes(600_000, byte(10+i)), "etc/other.2": randomBytes(200_000, byte(20+i))})
			_, err := Pull(t.Context(), more, device, nil)
			must(t, err)
		}
		_, dest, err := pullBundle(t, file, device)
		must(t, err)
		testutil.CompareTrees(t, tree, dest)
	})
	forged := filepath.Join(t.TempDir(), "forged")
	must(t, os.Mkdir(forged, 0o755))
	must(t, os.WriteFile(filepath.Join(forged, "lib.so.1"), changed(lib, 100_000), 0o644))
	for name, opts := range map[string]PullOptions{"nothing there": lists(t), "base with other bytes": lists(t, forged)} {
		t.Run(name, func(t *testing.T) {
			_, dest, err := pullBundle(t, file, opts)
			if !errors.Is(err, offline.ErrLacks) {
				t.Errorf("error %v, want %v", err, offline.ErrLacks)
			}
			if _, err := os.Lstat(dest); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", dest, err)
			}
		})
	}

	lie := func(change func(*offline.Bases)) func([]byte) []byte {
		return func(b []byte) []byte {
			f, err := offline.Open(file)
			must(t, err)
			list, err := f.Bases(t.Context(), 1<<20)
			must(t, errors.Join(err, f.Close()))
			change(list)
			return list.Append(nil)
		}
	}
	last := func(l *offline.Bases) *offline.Part { return &l.Parts[len(l.Parts)-1] }
	for name, c := range map[string]struct {
		bases func([]byte) []byte
		want  error
	}{
		"wrong offsets":   {lie(func(l *offline.Bases) { l.Parts[0].At++ }), offline.ErrLacks},
		"no such chunk":   {lie(func(l *offline.Bases) { last(l).Chunk = 1 << 30 }), offline.ErrMalformed},
		"past the end":    {lie(func(l *offline.Bases) { last(l).At = l.Bases[last(l).Base].Size - 1 }), offline.ErrMalformed},
		"far past it":     {lie(func(l *offline.Bases) { last(l).At = 1 << 61 }), offline.ErrMalformed},
		"no such base":    {lie(func(l *offline.Bases) { l.Bases[0].Prefix[0]++ }), offline.ErrLacks},
		"a longer base":   {lie(func(l *offline.Bases) { l.Bases[0].Size = 1 << 60 }), offline.ErrLacks},
		"garbage":         {func([]byte) []byte { return []byte("hello") }, offline.ErrMalformed},
		"very much of it": {func([]byte) []byte { return bytes.Repeat([]byte("x"), 1<<20) }, offline.ErrMalformed},
		"nothing":         {func([]byte) []byte { return nil }, offline.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			// Kin of another name, so that re-cutting does not find what the list says wrong.
			opts := lists(t, renamed)
			_, dest, err := pullBundle(t, rewrite(t, files, c.bases), opts)
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if _, err := os.Lstat(dest); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", dest, err)
			}
		})
	}
}

// rewrite makes a bundle with other bases.
func rewrite(t *testing.T, files map[string][]byte, bases func([]byte) []byte) string {
	t.Helper()
	var b bytes.Buffer
	w := offline.NewWriter(&b)
	put := func(name string, data []byte) { must(t, w.File(name, int64(len(data)), bytes.NewReader(data))) }
	put("app/2.json", files["app/2.json"])
	for _, name := range slices.Sorted(maps.Keys(files)) {
		switch data := files[name]; name {
		case "app/2.json":
		case "app/bases":
			put(name, bases(data))
		default:
			put(name, data)
		}
	}
	must(t, w.Close())
	file := filepath.Join(t.TempDir(), "bundle")
	must(t, os.WriteFile(file, b.Bytes(), 0o644))
	return file
}

// A device that has more than a bundle was made for may lack fewer contents, so that for
// one of them another place in the image seems cheaper. The bundle has only one.
func TestBundleHasOnePlace(t *testing.T) {
	dir := t.TempDir()
	both, filler := randomBytes(1000, 1), randomBytes(600_000, 2)
	beside := randomBytes(40_000, 3)
	_, have := pushFiles(t, dir, "1", 0, map[string][]byte{"m": filler, "y": make([]byte, 300_000)})
	// Cut from the first place it costs nothing beside b, and more than from the second.
	tree, ref := pushFiles(t, dir, "2", 0, map[string][]byte{"a": both, "b": beside, "m": filler, "y": make([]byte, 300_000), "z": both})
	file := bundleFor(t, ref, DeltaNever, have)
	seeds := filepath.Join(t.TempDir(), "seeds")
	must(t, os.Mkdir(seeds, 0o755))
	must(t, os.WriteFile(filepath.Join(seeds, "m"), filler, 0o644))
	must(t, os.WriteFile(filepath.Join(seeds, "b"), beside, 0o644))
	must(t, os.WriteFile(filepath.Join(seeds, "y"), make([]byte, 300_000), 0o644))
	opts := newOptions(t)
	opts.Seeds, opts.Deltas = []string{seeds}, DeltaNever
	plan, err := Prepare(t.Context(), ref, opts)
	must(t, err)
	defer func() { must(t, plan.Close()) }()
	files := inBundle(t, file)
	if !slices.ContainsFunc(chunksOf(plan.Plan), func(name string) bool { return files[name] == nil }) {
		t.Error("a pull over a network takes no other chunks: this tests nothing")
	}
	_, dest, err := pullBundle(t, file, opts)
	must(t, err)
	testutil.CompareTrees(t, tree, dest)
}

// A device that is further behind than any one delta reaches gets all of those that lead
// to the image.
func TestBundleHasChain(t *testing.T) {
	dir := t.TempDir()
	lib, fresh := randomBytes(400_000, 1), randomBytes(50_000, 2)
	var refs []repo.Ref
	var tree string
	for v := range 3 {
		for at := v; at < len(lib); at += 20_000 {
			lib[at] ^= 0xff
		}
		files := map[string][]byte{"lib": lib}
		if v > 0 { // which the delta from the first to the third lacks a base for
			fresh[v] ^= 0xff
			files["fresh"] = fresh
		}
		var ref repo.Ref
		// Of two tags of the same second, the first by name counts as the last.
		tree, ref = pushFiles(t, dir, fmt.Sprint(3-v), 1, files)
		refs = append(refs, ref)
	}
	device := newOptions(t)
	_, err := Pull(t.Context(), refs[0], device, nil)
	must(t, err)
	plan, err := Prepare(t.Context(), refs[2], device)
	must(t, err)
	if len(plan.links) == 0 {
		t.Error("one delta is enough: this tests nothing")
	}
	must(t, plan.Close())
	_, dest, err := pullBundle(t, bundleFor(t, refs[2], DeltaAuto, refs[0]), device)
	must(t, err)
	testutil.CompareTrees(t, tree, dest)
}
