package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Mirrors returns the repository of which files are copies. What may change is read
// from the first that answers: they may be of different age. What is named by its
// content comes from the one that answers chunks fastest, or the next one, and is verified
// to be what it is named. A transfer that breaks continues with the next one.
func Mirrors(files []Files, o store.MirrorOptions) Files {
	if len(files) == 1 {
		return files[0]
	}
	o.Retries = cmp.Or(o.Retries, 5)
	return &mirrors{name: files[0].String(), ranking: store.NewRanking(files, o), breaks: len(files) + max(o.Retries, 0)}
}

type mirrors struct {
	name    string
	ranking *store.Ranking[Files]
	breaks  int // of a transfer in a row, until it is given up
}

// String names the first.
func (m *mirrors) String() string { return m.name }

// digestIn returns the SHA-256 that names the file at path, if one does.
func digestIn(path string) (sum string, ok bool) {
	dir, sum, _ := strings.Cut(path, "/blobs/sha256/")
	return sum, dir != "" && len(sum) == 2*sha256.Size
}

// chunkIn returns the chunk whose file, in a chunk store, is at path, if one's is.
func chunkIn(name string) (id chunk.ID, form store.Form, ok bool) {
	dir, base := path.Split(name)
	base, packed := strings.CutSuffix(base, ".cacnk")
	if form = store.Raw; packed {
		form = store.Compressed
	}
	id, err := chunk.ParseID(base)
	return id, form, err == nil && path.Base(dir) == base[:4]
}

// wayTo returns how the file at path is asked for.
func wayTo(path string) store.Way {
	if _, _, ok := chunkIn(path); ok {
		return store.Fastest
	}
	if _, ok := digestIn(path); ok {
		return store.AnySize
	}
	return store.InOrder
}

// ReadFile implements Files.
func (m *mirrors) ReadFile(ctx context.Context, path string, limit int64) (b []byte, err error) {
	err = m.ranking.Ask(ctx, wayTo(path), func(f Files) error {
		var err error
		if b, err = f.ReadFile(ctx, path, limit); err != nil {
			return err
		}
		if id, form, ok := chunkIn(path); ok {
			if _, err := store.Check(nil, store.Packed{Form: form, Data: b}, id); err != nil {
				return fmt.Errorf("%s/%s: %w", f, path, err)
			}
		}
		if want, ok := digestIn(path); ok {
			if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != want {
				return mismatch("%s/%s: %d bytes of another digest", f, path, len(b))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// OpenAt implements Files.
func (m *mirrors) OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error) {
	r := &mirrorReader{ctx: ctx, m: m, path: path, at: offset, end: offset + size}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// mirrorReader reads a part of a file, from several mirrors if need be.
type mirrorReader struct {
	ctx     context.Context //nolint:containedctx // a reader has no other way to get that of its opener
	m       *mirrors
	path    string
	at, end int64
	from    Files
	body    io.ReadCloser
	breaks  int // since a byte came
}

func (r *mirrorReader) open() error {
	return r.m.ranking.Ask(r.ctx, wayTo(r.path), func(f Files) (err error) {
		r.from = f
		r.body, err = f.OpenAt(r.ctx, r.path, r.at, r.end-r.at)
		return err
	})
}

func (r *mirrorReader) Read(p []byte) (int, error) {
	for {
		if r.at == r.end {
			return 0, io.EOF
		}
		n, err := r.body.Read(p)
		if r.at += int64(n); n > 0 {
			r.breaks = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if r.breaks++; r.ctx.Err() != nil || r.breaks > r.m.breaks {
			return 0, err
		}
		r.m.ranking.Failed(r.from, err)
		_ = r.body.Close()
		r.body = io.NopCloser(bytes.NewReader(nil)) // for Close, if that fails
		if err := r.open(); err != nil {
			return 0, err
		}
	}
}

func (r *mirrorReader) Close() error { return r.body.Close() }
