package toc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// ErrContent is wrapped by the errors for a content that is not what its node
// says: another length or another digest.
var ErrContent = errors.New("toc: content does not match its node")

// WriteCatar writes the catar that src projects to (docs/format/projection.md).
// It reads each content that lies in the catar, checks its length, and its
// digest where that is known; unknown ones are filled in, in src.Nodes. After
// WriteCatar and WriteExtra no digest is unknown.
func WriteCatar(ctx context.Context, src *Source, w io.Writer) error {
	if err := validate(src.Nodes, false); err != nil {
		return err
	}
	cw := catar.NewWriter(w, ProjectionFlags)
	c := NewCopier(src)
	err := project(src.Nodes, cw, func(i int) error { return c.Copy(ctx, cw, i) })
	if err != nil {
		return err
	}
	c.Spread()
	return nil
}

// WriteExtra writes the contents that the catar leaves out, one after the
// other, and treats them as WriteCatar does. It writes nothing for most trees.
func WriteExtra(ctx context.Context, src *Source, w io.Writer) error {
	if err := validate(src.Nodes, false); err != nil {
		return err
	}
	c := NewCopier(src)
	for i := range extra(src.Nodes) {
		if err := c.Copy(ctx, w, i); err != nil {
			return err
		}
	}
	c.Spread()
	return nil
}

// Copier copies contents and digests them on the way. It is for one goroutine.
type Copier struct {
	src  *Source
	hash hash.Hash
	buf  []byte
}

// NewCopier returns a Copier of the contents of src.
func NewCopier(src *Source) *Copier {
	return &Copier{src: src, hash: sha256.New(), buf: make([]byte, 256<<10)}
}

// Copy writes the content of node i, a regular file, to w. It checks the length,
// and the digest where that is known; else it fills it in, in the node that is no
// follower. The error wraps ErrContent when the content is not that of the node.
func (c *Copier) Copy(ctx context.Context, w io.Writer, i int) (err error) {
	lead := leader(c.src.Nodes, i)
	n := &c.src.Nodes[lead]
	r, err := c.src.Open(ctx, lead)
	if err != nil {
		return fmt.Errorf("toc: open content of %q: %w", Path(c.src.Nodes, i), err)
	}
	defer func() {
		if cerr := r.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("toc: close content of %q: %w", Path(c.src.Nodes, i), cerr)
		}
	}()
	c.hash.Reset()
	for left := n.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, rerr := io.ReadFull(r, c.buf[:min(left, int64(len(c.buf)))])
		c.hash.Write(c.buf[:got])
		if _, err := w.Write(c.buf[:got]); err != nil {
			return fmt.Errorf("toc: write content of %q: %w", Path(c.src.Nodes, i), err)
		}
		left -= int64(got)
		switch {
		case errors.Is(rerr, io.EOF), errors.Is(rerr, io.ErrUnexpectedEOF):
			return fmt.Errorf("%w: %q ends after %d of %d bytes", ErrContent, Path(c.src.Nodes, i), n.Size-left, n.Size)
		case rerr != nil:
			return fmt.Errorf("toc: read content of %q: %w", Path(c.src.Nodes, i), rerr)
		}
	}
	switch _, err := io.ReadFull(r, c.buf[:1]); {
	case err == nil:
		return fmt.Errorf("%w: %q is longer than %d bytes", ErrContent, Path(c.src.Nodes, i), n.Size)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("toc: read content of %q: %w", Path(c.src.Nodes, i), err)
	}
	digest := [32]byte(c.hash.Sum(nil))
	if n.Digest == [32]byte{} {
		n.Digest = digest
	}
	if n.Digest != digest {
		return fmt.Errorf("%w: %q has SHA-256 %x, not %x", ErrContent, Path(c.src.Nodes, i), digest, n.Digest)
	}
	return nil
}

// Spread gives, when all contents have been copied, followers their leaders' digests and empty files theirs.
func (c *Copier) Spread() {
	nodes := c.src.Nodes
	for i := range nodes {
		n := &nodes[i]
		if n.IsRegular() && n.Size == 0 {
			n.Digest = emptyDigest
		}
		n.Digest = nodes[leader(nodes, i)].Digest
	}
}
