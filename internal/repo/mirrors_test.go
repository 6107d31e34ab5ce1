package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// copyOf is a copy of a repository that fails as it is told.
type copyOf struct {
	files map[string][]byte
	err   error // of everything
	cut   int64 // bytes after which a transfer breaks; 0: none does
	asked int
}

func (c *copyOf) String() string { return "copy" }

func (c *copyOf) ReadFile(_ context.Context, path string, _ int64) ([]byte, error) {
	c.asked++
	if c.err != nil {
		return nil, c.err
	}
	b, ok := c.files[path]
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, store.ErrNotFound)
	}
	return b, nil
}

func (c *copyOf) OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error) {
	b, err := c.ReadFile(ctx, path, size)
	if err != nil {
		return nil, err
	}
	b = b[offset : offset+size]
	if c.cut > 0 && c.cut < size {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b[:c.cut]), broken{})), nil
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (c *copyOf) Stat(ctx context.Context, path string) (store.Entry, error) {
	b, err := c.ReadFile(ctx, path, 1<<20)
	return store.Entry{Path: path, Size: int64(len(b))}, err
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestMirrors(t *testing.T) {
	content := bytes.Repeat([]byte("content "), 1000)
	sum := sha256.Sum256(content)
	blob := "app/blobs/sha256/" + hex.EncodeToString(sum[:])
	const tag = "app/1.json"
	network := fmt.Errorf("down: %w", store.ErrNetwork)
	whole := func() *copyOf { return &copyOf{files: map[string][]byte{blob: content, tag: []byte("new")}} }
	read := func(t *testing.T, path string, all ...Files) ([]byte, error) {
		return Mirrors(all, store.MirrorOptions{Retries: 2}).ReadFile(t.Context(), path, 1<<20)
	}
	for name, first := range map[string]*copyOf{
		"down":        {err: network},
		"forbidden":   {err: errors.New("status 403")},
		"lacks it":    {files: map[string][]byte{tag: []byte("new")}},
		"other bytes": {files: map[string][]byte{blob: []byte("<html>")}},
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := read(t, blob, first, whole()); err != nil || !bytes.Equal(b, content) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	t.Run("tags", func(t *testing.T) {
		old := &copyOf{files: map[string][]byte{tag: []byte("old")}}
		if b, err := read(t, tag, whole(), old); err != nil || string(b) != "new" {
			t.Errorf("both work: %q, %v", b, err)
		}
		if b, err := read(t, tag, &copyOf{err: network}, old); err != nil || string(b) != "old" {
			t.Errorf("the first is down: %q, %v", b, err)
		}
		if _, err := read(t, tag, &copyOf{}, old); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the first has it no more: %v", err)
		}
	})
	t.Run("all fail", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := &copyOf{err: network}, &copyOf{}
			if _, err := read(t, blob, a, b); !errors.Is(err, store.ErrNetwork) || a.asked != 3 {
				t.Errorf("asked %d times: %v", a.asked, err)
			}
			if _, err := read(t, blob, b, b); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("nobody has it: %v", err)
			}
		})
	})
	t.Run("parts", func(t *testing.T) {
		a, b := whole(), whole()
		a.cut, b.cut = 100, 1000
		m := Mirrors([]Files{a, b, &copyOf{err: network}}, store.MirrorOptions{})
		r, err := m.OpenAt(t.Context(), blob, 8, 7000)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content[8:7008]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("copies", func(t *testing.T) {
		a, b := whole(), whole()
		a.cut, b.cut = 100, 1000
		for name, all := range map[string][]Files{
			"both break": {a, b},
			"one lacks":  {&copyOf{}, b, whole()},
			"one is bad": {&copyOf{err: errors.New("status 403")}, whole()},
		} {
			var out bytes.Buffer
			length := int64(-1)
			err := Copy(t.Context(), Mirrors(all, store.MirrorOptions{}), blob, &out, func(size int64) error {
				length = size
				return nil
			})
			if err != nil || length != int64(len(content)) || !bytes.Equal(out.Bytes(), content) {
				t.Errorf("%s: %d of %d bytes, %v", name, out.Len(), length, err)
			}
		}
		// Who lies is not asked first the next time.
		m := Mirrors([]Files{&copyOf{files: map[string][]byte{blob: []byte("lies")}}, whole()}, store.MirrorOptions{})
		whatever := func(int64) error { return nil }
		if err := Copy(t.Context(), m, blob, io.Discard, whatever); !errors.Is(err, ErrMismatch) {
			t.Errorf("a lie: %v", err)
		}
		var out bytes.Buffer
		if err := Copy(t.Context(), m, blob, &out, whatever); err != nil || !bytes.Equal(out.Bytes(), content) {
			t.Errorf("after a lie: %d bytes, %v", out.Len(), err)
		}
		if err := Copy(t.Context(), m, "app/nothing", &out, whatever); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("of nothing: %v", err)
		}
	})
	t.Run("left alone", func(t *testing.T) {
		dead, good := &copyOf{err: network}, whole()
		m := Mirrors([]Files{dead, good}, store.MirrorOptions{RetryWait: time.Hour})
		for range 5 {
			for _, path := range []string{tag, blob} {
				if _, err := m.ReadFile(t.Context(), path, 1<<20); err != nil {
					t.Error(err)
				}
			}
		}
		if dead.asked != 1 {
			t.Errorf("the dead one was asked %d times", dead.asked)
		}
	})
	t.Run("chunks", func(t *testing.T) {
		id := chunk.SHA512_256.Sum(content).String()
		name := "default.castr/" + id[:4] + "/" + id
		a, b := whole(), whole()
		a.files[name], b.files[name] = []byte("<html>"), content
		if got, err := read(t, name, a, b); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := read(t, name, a, a); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("all lie: %v", err)
		}
	})
}
