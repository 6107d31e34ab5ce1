package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// Copy writes the file at path to w while it arrives. Before the first byte it calls
// begin, perhaps several times, with the length in bytes, or -1 if it is not known; an
// error of begin or of w ends it. Other errors are those of [Files].
func Copy(ctx context.Context, files Files, path string, w io.Writer, begin func(size int64) error) error {
	switch f := files.(type) {
	case interface {
		Copy(ctx context.Context, path string, w io.Writer, begin func(int64) error) error
	}:
		return f.Copy(ctx, path, w, begin)
	case interface {
		Stat(ctx context.Context, path string) (store.Entry, error)
	}:
		e, err := f.Stat(ctx, path)
		if err == nil {
			err = begin(e.Size)
		}
		if err != nil || e.Size == 0 {
			return err
		}
		return copyPart(ctx, files, path, w, 0, e.Size)
	}
	return fmt.Errorf("repo: %s: %w: files that are passed on while they arrive", files, errors.ErrUnsupported)
}

func copyPart(ctx context.Context, files Files, path string, w io.Writer, from, to int64) error {
	r, err := files.OpenAt(ctx, path, from, to-from)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, r.Close())
}

// Copy is [Copy] of a file that is in several places: what breaks goes on in another
// one. A blob is verified to be what it is named, when it has been written.
func (m *mirrors) Copy(ctx context.Context, path string, w io.Writer, begin func(size int64) error) error {
	p := &passed{w: w, size: -1, sum: sha256.New()}
	var from Files
	for {
		before := p.done
		err := m.ranking.Ask(ctx, wayTo(path), func(f Files) error {
			from = f
			switch {
			case p.done > 0 && p.done == p.size:
				return nil
			case p.done > 0 && p.size > 0:
				return copyPart(ctx, f, path, p, p.done, p.size)
			}
			p.skip = p.done
			return Copy(ctx, f, path, p, func(size int64) error {
				p.size = size
				return begin(size)
			})
		})
		if err == nil {
			break
		}
		if p.done == before || ctx.Err() != nil {
			return err
		}
	}
	if want, ok := digestIn(path); ok && hex.EncodeToString(p.sum.Sum(nil)) != want {
		err := mismatch("%s/%s: %d bytes of another digest", from, path, p.done)
		m.ranking.Failed(from, err)
		return err
	}
	return nil
}

// passed counts and hashes what is written to w, which the first skip bytes are not:
// they have been.
type passed struct {
	w          io.Writer
	size       int64 // of the file, -1 if it is not known
	done, skip int64
	sum        hash.Hash
}

func (p *passed) Write(b []byte) (int, error) {
	old := min(p.skip, int64(len(b)))
	p.skip -= old
	n, err := p.w.Write(b[old:])
	p.sum.Write(b[old:][:n])
	p.done += int64(n)
	return int(old) + n, err
}
