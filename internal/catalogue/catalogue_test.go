package catalogue

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/seed"
)

// aged writes a file whose times are far enough in the past.
func aged(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

// later is when the hashing of files made now may be remembered.
func later() time.Time { return time.Now().Add(time.Minute) }

func open(t testing.TB, dir string) *Catalogue {
	t.Helper()
	c, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func stat(t testing.TB, path string) os.FileInfo {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi
}

// learn makes c know the file at path, hashed at the given time.
func learn(t testing.TB, c *Catalogue, tree, path string, started time.Time) seed.Digest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := sha256.Sum256(b)
	c.Scan(tree).Learn(path, stat(t, path), stat(t, path), started, d)
	return d
}

func save(t testing.TB, c *Catalogue) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.save(); err != nil {
		t.Fatal(err)
	}
}

func TestKnowsUnchangedFilesInLaterRuns(t *testing.T) {
	dir, tree := t.TempDir(), t.TempDir()
	path := filepath.Join(tree, "file")
	aged(t, path, "content")
	c := open(t, dir)
	want := learn(t, c, tree, path, later())
	if got, ok := c.Scan(tree).Recall(path, stat(t, path)); !ok || got != want {
		t.Errorf("in the same run: %x, %v", got, ok)
	}
	save(t, c)
	c = open(t, dir)
	if got, ok := c.Scan(tree).Recall(path, stat(t, path)); !ok || got != want {
		t.Errorf("in a later run: %x, %v", got, ok)
	}
	// A new name or another walk is no change; new times are.
	moved := filepath.Join(tree, "moved")
	if err := os.Link(path, moved); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Scan(tree).Recall(path, stat(t, path)); ok {
		t.Error("known although its ctime has changed")
	}
}

func TestChangesShow(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"same size, same mtime": func(path string) error {
			fi, err := os.Stat(path)
			if err == nil {
				err = os.WriteFile(path, []byte("CONTENT"), 0o644)
			}
			if err == nil {
				err = os.Chtimes(path, fi.ModTime(), fi.ModTime())
			}
			return err
		},
		"other size": func(path string) error { return os.Truncate(path, 3) },
		"replaced": func(path string) error {
			aged(t, path+".new", "CONTENT")
			return os.Rename(path+".new", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, tree := t.TempDir(), t.TempDir()
			path := filepath.Join(tree, "file")
			aged(t, path, "content")
			c := open(t, dir)
			learn(t, c, tree, path, later())
			save(t, c)
			time.Sleep(20 * time.Millisecond) // beyond the clock tick of any filesystem here
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			if _, ok := open(t, dir).Scan(tree).Recall(path, stat(t, path)); ok {
				t.Error("the change went unnoticed")
			}
		})
	}
}

// A file that changed within the clock's tick of its hashing may change again
// without showing it.
func TestRacilyCleanFilesAreNotRemembered(t *testing.T) {
	tree := t.TempDir()
	path := filepath.Join(tree, "file")
	for name, c := range map[string]struct {
		mtime, started time.Time
		want           bool
	}{
		"just written":          {time.Now().Add(-time.Hour), time.Now(), false},
		"mtime is now":          {later(), later(), false},
		"long ago":              {time.Now().Add(-time.Hour), later(), true},
		"mtime in the future":   {time.Now().Add(time.Hour), later(), true},
		"the clock is far back": {time.Now().Add(-time.Hour), time.Unix(1000, 0), true},
	} {
		t.Run(name, func(t *testing.T) {
			cat := open(t, t.TempDir())
			aged(t, path, "content")
			if err := os.Chtimes(path, c.mtime, c.mtime); err != nil {
				t.Fatal(err)
			}
			learn(t, cat, tree, path, c.started)
			if _, ok := cat.Scan(tree).Recall(path, stat(t, path)); ok != c.want {
				t.Errorf("remembered: %v, want %v", ok, c.want)
			}
		})
	}
}

func TestChangedWhileHashed(t *testing.T) {
	tree := t.TempDir()
	path := filepath.Join(tree, "file")
	aged(t, path, "content")
	c := open(t, t.TempDir())
	before := stat(t, path)
	aged(t, path, "another")
	c.Scan(tree).Learn(path, before, stat(t, path), later(), seed.Digest{1})
	if known(c) != 0 {
		t.Error("a file that changed was remembered")
	}
}

func TestForgetsWhatIsGone(t *testing.T) {
	dir, tree, other := t.TempDir(), t.TempDir(), t.TempDir()
	c := open(t, dir)
	for i := range 10 {
		path := filepath.Join(tree, fmt.Sprint(i))
		aged(t, path, fmt.Sprint("content ", i))
		learn(t, c, tree, path, later())
	}
	aged(t, filepath.Join(other, "file"), "elsewhere")
	learn(t, c, other, filepath.Join(other, "file"), later())
	save(t, c)

	// Of what a whole walk did not meet nothing stays; a walk that was cut
	// says nothing, and other trees are not concerned.
	c = open(t, dir)
	s := c.Scan(tree)
	s.Recall(filepath.Join(tree, "3"), stat(t, filepath.Join(tree, "3")))
	save(t, c)
	if n := known(open(t, dir)); n != 11 {
		t.Errorf("%d entries after a walk that was cut, want 11", n)
	}
	s.Done()
	save(t, c)
	if n := known(open(t, dir)); n != 2 {
		t.Errorf("%d entries after a whole walk, want 2", n)
	}

	// And what nobody asks for goes in the end.
	now := time.Now()
	c, err := Open(dir, Options{Now: func() time.Time { return now.AddDate(0, 0, keepDays+1) }})
	if err != nil {
		t.Fatal(err)
	}
	s = c.Scan(tree)
	s.Recall(filepath.Join(tree, "3"), stat(t, filepath.Join(tree, "3")))
	save(t, c)
	if n := known(open(t, dir)); n != 1 {
		t.Errorf("%d entries after %d days, want 1", n, keepDays+1)
	}
}

func TestWritesNothingForNothing(t *testing.T) {
	dir, tree := t.TempDir(), t.TempDir()
	path := filepath.Join(tree, "file")
	aged(t, path, "content")
	c := open(t, dir)
	learn(t, c, tree, path, later())
	save(t, c)
	before := stat(t, filepath.Join(dir, fileName))
	c = open(t, dir)
	s := c.Scan(tree)
	s.Recall(path, stat(t, path))
	s.Done()
	save(t, c)
	if !os.SameFile(before, stat(t, filepath.Join(dir, fileName))) {
		t.Error("written again although nothing is new")
	}
}

// What one process saves, another that was open meanwhile keeps.
func TestConcurrentRuns(t *testing.T) {
	dir, tree := t.TempDir(), t.TempDir()
	const runs, files = 8, 20
	var wg sync.WaitGroup
	for r := range runs {
		c := open(t, dir)
		for i := range files {
			path := filepath.Join(tree, fmt.Sprint(r, "-", i))
			aged(t, path, path)
			learn(t, c, tree, path, later())
		}
		wg.Go(func() { save(t, c) })
	}
	wg.Wait()
	if n := known(open(t, dir)); n != runs*files {
		t.Errorf("%d entries, want %d", n, runs*files)
	}
}

func TestCorruptCatalogueIsBegunAnew(t *testing.T) {
	tree := t.TempDir()
	path := filepath.Join(tree, "file")
	aged(t, path, "content")
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"cut":       func(b []byte) []byte { return b[:len(b)-1] },
		"a bit":     func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"extended":  func(b []byte) []byte { return append(b, make([]byte, recordSize)...) },
		"a version": func(b []byte) []byte { b[21] = '2'; return b },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := open(t, dir)
			learn(t, c, tree, path, later())
			save(t, c)
			file := filepath.Join(dir, fileName)
			b, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(file, spoil(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			c = open(t, dir)
			if known(c) != 0 {
				t.Error("a corrupt catalogue was believed")
			}
			learn(t, c, tree, path, later())
			save(t, c)
			if n := known(open(t, dir)); n != 1 {
				t.Errorf("%d entries in the new one, want 1", n)
			}
		})
	}
}

func TestFilesystemsAreTold(t *testing.T) {
	dir := t.TempDir()
	aged(t, filepath.Join(dir, "a"), "x")
	_, dev, _, _ := lookOf(stat(t, filepath.Join(dir, "a")))
	one, err := identify(filepath.Join(dir, "a"), dev, "boot 1")
	if err != nil || one == 0 {
		t.Fatalf("%x, %v", one, err)
	}
	_, procDev, _, _ := lookOf(stat(t, "/proc/version"))
	if two, err := identify("/proc/version", procDev, "boot 1"); err != nil || two == one {
		t.Errorf("proc is %x, %v", two, err)
	}
	if _, err := identify(filepath.Join(dir, "a"), procDev, "boot 1"); err == nil {
		t.Error("a file on another device than told was taken")
	}
}

// memFile is a file in memory.
type memFile struct{ bytes.Buffer }

func (m *memFile) WriteAt(b []byte, at int64) (int, error) { return copy(m.Bytes()[at:], b), nil }

// written returns the catalogue file of the entries.
func written(t testing.TB, entries []entry) []byte {
	t.Helper()
	var m memFile
	w := newWriter(&m)
	for _, e := range entries {
		if err := w.add(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	return m.Bytes()
}

// TestMerge compares what is written, of records learned before and now, with a map.
func TestMerge(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	plain := make(map[fileKey]seed.Digest)
	for round := range 4 {
		c := open(t, dir)
		for range []int{0, 1, 2*blockLen + 1, 3 * blockLen}[round] {
			e := entry{fileKey: fileKey{r.Uint64N(3), r.Uint64N(4 * blockLen)}, used: c.day(), sum: seed.Digest{byte(r.Uint32())}}
			c.fresh.set(e)
			plain[e.fileKey] = e.sum
		}
		save(t, c)
	}
	c := open(t, dir)
	if known(c) != len(plain) {
		t.Errorf("%d records, want %d", known(c), len(plain))
	}
	for k, sum := range plain {
		if i, ok := c.old.find(k); !ok || c.old.at(i).sum != sum {
			t.Fatalf("the record of %v is wrong", k)
		}
	}
}

// A catalogue that was closed knows nothing, and takes nothing in.
func TestClosed(t *testing.T) {
	dir, tree := t.TempDir(), t.TempDir()
	path := filepath.Join(tree, "file")
	aged(t, path, "content")
	c := open(t, dir)
	learn(t, c, tree, path, later())
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Scan(tree).Recall(path, stat(t, path)); ok {
			t.Error("known after Close")
		}
		learn(t, c, tree, path, later())
		if known(c) != 0 {
			t.Error("learned after Close")
		}
	}
	if n := known(open(t, dir)); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
}

func FuzzParse(f *testing.F) {
	b := written(f, []entry{{fileKey: fileKey{1, 2}, look: look{3, 4, 5}, tree: 6, used: 7, sum: seed.Digest{8}}})
	f.Add(b)
	f.Add(b[:headerSize])
	f.Fuzz(func(t *testing.T, data []byte) {
		tab, err := parse(data)
		if err != nil {
			return
		}
		var entries []entry
		for i := range tab.len() {
			e := tab.at(i)
			if k, ok := tab.find(e.fileKey); !ok || k != i {
				t.Errorf("record %d is found at %d, %v", i, k, ok)
			}
			entries = append(entries, e)
		}
		if !bytes.Equal(written(t, entries), data) {
			t.Error("what was read is written differently")
		}
	})
}

// BenchmarkCatalogue fills, writes, opens and asks a catalogue.
func BenchmarkCatalogue(b *testing.B) {
	for _, n := range []int{50_000, 200_000, 800_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				dir := b.TempDir()
				c := open(b, dir)
				for i := range uint64(n) {
					c.fresh.set(entry{fileKey: fileKey{1, i * 2654435761 % (1 << 32)}, used: c.day()})
				}
				save(b, c)
				c = open(b, dir)
				for i := range uint64(n) {
					if _, ok := c.old.find(fileKey{1, i * 2654435761 % (1 << 32)}); !ok {
						b.Fatal("not found")
					}
				}
			}
		})
	}
}

// settled is a memory that hashes a minute later than it does, when the files
// that a test has just made may be remembered.
type settled struct{ *Catalogue }

type settledScan struct{ seed.Scan }

func (s settled) Scan(dir string) seed.Scan { return settledScan{s.Catalogue.Scan(dir)} }

func (s settledScan) Learn(path string, before, after os.FileInfo, _ time.Time, d seed.Digest) {
	s.Scan.Learn(path, before, after, later(), d)
}

func (s settledScan) LearnList(path string, before, after os.FileInfo, _ time.Time, list []byte) {
	s.Scan.LearnList(path, before, after, later(), list)
}

// The list of what is inside an archive is kept beside the digest of the archive
// itself, as long as the archive is, and no longer than it looks the same.
func TestLists(t *testing.T) {
	dir, tree := filepath.Join(t.TempDir(), "catalogue"), t.TempDir()
	path := filepath.Join(tree, "a.tar")
	aged(t, path, "archive")
	list := []byte("what is in it")
	lists := func() int {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(dir, listsName))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	look := func(c *Catalogue) (seed.Scan, os.FileInfo) {
		t.Helper()
		fi, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return settled{c}.Scan(tree), fi
	}
	c := open(t, dir)
	s, fi := look(c)
	s.LearnList(path, fi, fi, time.Time{}, list)
	s.Learn(path, fi, fi, time.Time{}, seed.Digest{1})
	save(t, c)

	c = open(t, dir)
	s, fi = look(c)
	if b, ok := s.RecallList(path, fi); !ok || string(b) != string(list) {
		t.Errorf("list %q, %t", b, ok)
	}
	if d, ok := s.Recall(path, fi); !ok || d != (seed.Digest{1}) {
		t.Errorf("digest %x, %t", d, ok)
	}
	s.Done()
	save(t, c)
	if n := lists(); n != 1 {
		t.Errorf("%d lists", n)
	}

	// A list that is damaged is none.
	entries, err := os.ReadDir(filepath.Join(dir, listsName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, listsName, entries[0].Name()), []byte("what is not"), 0o600); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir)
	s, fi = look(c)
	if b, ok := s.RecallList(path, fi); ok {
		t.Errorf("damaged list %q", b)
	}

	// Of an archive that changed there is none, and in the end it is removed.
	aged(t, path, "another archive")
	c = open(t, dir)
	s, fi = look(c)
	if b, ok := s.RecallList(path, fi); ok {
		t.Errorf("list of another archive %q", b)
	}
	s.Done()
	save(t, c)
	if n := lists(); n != 0 {
		t.Errorf("%d lists are left", n)
	}
}

// known returns the number of files that are known, those learned since Open included.
func known(c *Catalogue) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.old.len()
	for i := range c.fresh.n {
		if _, ok := c.old.find(c.fresh.at(i).fileKey); !ok {
			n++
		}
	}
	return n
}
