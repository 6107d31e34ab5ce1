package transfer

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// pullChanged pulls with a seed that change is done to when the plan is made. The result
// must be exact all the same, and the loss be told, of as many contents as are wanted.
func pullChanged(t *testing.T, tree string, ref repo.Ref, opts PullOptions, change func(), loss assemble.Loss, lost int) {
	t.Helper()
	opts.Dest = Dest{Kind: RootFS, Path: filepath.Join(t.TempDir(), "dest")}
	p, err := Pull(t.Context(), ref, opts, func(p *Prepared) {
		if len(p.Plan.Missing) != 0 {
			t.Errorf("%d contents are not in the seed", len(p.Plan.Missing))
		}
		change()
	})
	must(t, err)
	if p.Stats.Lost[loss] != lost || len(p.Stats.Lost) != 1 || p.Stats.Copied != files-lost {
		t.Errorf("stats %+v, want %d contents lost because %s", p.Stats, lost, loss)
	}
	testutil.CompareTrees(t, tree, opts.Dest.Path)
}

// An engine removes a layer, and an archive is cut, when they are counted on.
func TestStorageThatChanges(t *testing.T) {
	tree, ref := pushTree(t, t.TempDir(), 1)
	t.Run("layer", func(t *testing.T) {
		storage := t.TempDir()
		layer := filepath.Join(storage, "overlay", "1")
		must(t, os.MkdirAll(filepath.Join(storage, "overlay-layers"), 0o755))
		must(t, os.CopyFS(filepath.Join(layer, "diff"), os.DirFS(tree)))
		opts := newOptions(t)
		opts.Seeds = []string{storage}
		pullChanged(t, tree, ref, opts, func() { must(t, os.RemoveAll(layer)) }, assemble.Gone, files)
	})
	t.Run("archive", func(t *testing.T) {
		archive := filepath.Join(t.TempDir(), "a.tar")
		if out, err := exec.CommandContext(t.Context(), "tar", "-C", tree, "--sort=name", "-cf", archive, ".").CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		opts := newOptions(t)
		opts.Seeds = []string{archive}
		const kept = 5
		cut := func() { must(t, os.Truncate(archive, 1024+kept*(512+100<<10)+700)) }
		pullChanged(t, tree, ref, opts, cut, assemble.Resized, files-kept)
	})
}

// What the catalogue says of two files is not so, though it is of good form.
func TestCatalogueThatLies(t *testing.T) {
	tree, ref := pushTree(t, t.TempDir(), 1)
	opts := newOptions(t)
	opts.Seeds = []string{tree}
	for { // until the files are old enough to be remembered
		i, err := IndexSeeds(t.Context(), opts.Root, opts.Seeds, nil)
		must(t, err)
		if i.Files == files && i.Read == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	const header, record, digest = 32, 80, 48 // docs/format/catalogue.md, section 1
	path := filepath.Join(opts.Root, "catalogue", "digests")
	b, err := os.ReadFile(path)
	must(t, err)
	first, second := b[header+digest:header+record], b[header+record+digest:header+2*record]
	for i := range first {
		first[i], second[i] = second[i], first[i]
	}
	binary.BigEndian.PutUint32(b[24:], crc32.Checksum(b[header:], crc32.MakeTable(crc32.Castagnoli)))
	must(t, os.WriteFile(path, b, 0o644))
	pullChanged(t, tree, ref, opts, func() {}, assemble.Changed, 2)
}

// What the kernel makes up below a seed is not read, and no obstacle.
func TestProcBelowSeed(t *testing.T) {
	testutil.NeedRoot(t)
	tree, ref := pushTree(t, t.TempDir(), 1)
	seed := filepath.Join(t.TempDir(), "seed")
	must(t, os.CopyFS(seed, os.DirFS(tree)))
	proc := filepath.Join(seed, "proc")
	must(t, os.Mkdir(proc, 0o755))
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(proc, unix.MNT_DETACH)) })
	opts := newOptions(t)
	opts.Seeds = []string{seed}
	i, err := IndexSeeds(t.Context(), opts.Root, opts.Seeds, nil)
	must(t, err)
	if i.Files != files || i.Read != files {
		t.Errorf("%+v, want the %d files beside it", i, files)
	}
	opts.Dest = Dest{Kind: RootFS, Path: filepath.Join(t.TempDir(), "dest")}
	p, err := Pull(t.Context(), ref, opts, nil)
	must(t, err)
	if p.Stats.Copied != files || p.Stats.Lost != nil {
		t.Errorf("stats %+v", p.Stats)
	}
	testutil.CompareTrees(t, tree, opts.Dest.Path)
}
