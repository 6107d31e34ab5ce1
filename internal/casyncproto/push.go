package casyncproto

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Target is where a push goes. What is nil is not offered.
type Target struct {
	// Archive is called with the archive, which it reads to its end and keeps.
	Archive func(io.Reader) error
	// Index is called with the index that was pushed, when the store has every
	// chunk of it.
	Index func(*caibx.Index) error
	// Store takes the chunks of the index. It must be a store.Writer and a
	// store.Checker.
	Store store.Store
}

func (t Target) services() Flags {
	var f Flags
	if t.Archive != nil {
		f |= WritableArchive
	}
	if t.Index != nil {
		f |= WritableIndex
	}
	if t.Store != nil {
		f |= WritableStore
	}
	return f
}

// ServePush takes what the client at the other end pushes, an archive or an
// index with its chunks, and closes c. Chunks are verified before they are
// stored; the index, or archive, is kept when everything has arrived.
func ServePush(ctx context.Context, c *Conn, to Target) error {
	return c.serve(ctx, func() error {
		wants, err := c.agree(to.services(), map[Flags]Flags{
			PushArchive: WritableArchive, PushIndex: WritableIndex,
			PushChunks: WritableStore, PushIndexChunks: WritableStore | WritableIndex,
		})
		switch {
		case err != nil:
			return err
		case wants&PushArchive != 0:
			if err := to.Archive(c.Stream(TypeArchive)); err != nil {
				return err
			}
		case wants&PushIndex != 0 && to.Store != nil:
			if err := c.takeIndex(ctx, to); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a push of chunks without an index: %w", errors.ErrUnsupported)
		}
		return c.Goodbye()
	})
}

// takeIndex reads an index and requests the chunks of it that the store lacks.
func (c *Conn) takeIndex(ctx context.Context, to Target) error {
	x, err := caibx.Read(c.Stream(TypeIndex))
	if err != nil {
		return err
	}
	sizes := make(map[chunk.ID]uint64, len(x.Chunks))
	ids := make([]chunk.ID, 0, len(x.Chunks))
	for i, k := range x.Chunks {
		_, size := x.Span(i)
		switch known, ok := sizes[k.ID]; {
		case !ok:
			sizes[k.ID], ids = size, append(ids, k.ID)
		case known != size:
			return fmt.Errorf("chunk %s: %w: the index gives it %d and %d bytes", k.ID, caibx.ErrMalformed, known, size)
		}
	}
	checker, _ := store.As[store.Checker](to.Store)
	missing, err := checker.Missing(ctx, ids)
	if err != nil {
		return err
	}
	if err := c.takeChunks(ctx, to.Store, x.Algorithm(), sizes, missing); err != nil {
		return err
	}
	return to.Index(x)
}

// takeChunks requests chunks, a batch ahead of those that have come, and stores
// them. It takes none that it has not asked for.
func (c *Conn) takeChunks(ctx context.Context, s store.Store, alg chunk.Algorithm, sizes map[chunk.ID]uint64, missing []chunk.ID) error {
	in := intake{alg: alg, sizes: sizes, packer: store.NewPacker(0, chunk.DefaultParams().Max)}
	in.writer, _ = store.As[store.Writer](s)
	asked := make(map[chunk.ID]struct{})
	for len(missing) > 0 || len(asked) > 0 {
		if len(missing) > 0 && len(asked) <= maxBatch {
			batch := missing[:min(len(missing), maxBatch)]
			missing = missing[len(batch):]
			for _, id := range batch {
				asked[id] = struct{}{}
			}
			if err := errors.Join(c.request(batch), c.Flush()); err != nil {
				return err
			}
		}
		id, p, err := c.pushedChunk()
		if err != nil {
			return err
		}
		if _, ok := asked[id]; !ok {
			return fmt.Errorf("%w: chunk %s was not requested", ErrProtocol, id)
		}
		delete(asked, id)
		if err := in.put(ctx, id, p); err != nil {
			return err
		}
	}
	return nil
}

// pushedChunk reads the frame that answers a request: a chunk, not yet verified.
func (c *Conn) pushedChunk() (chunk.ID, store.Packed, error) {
	f, err := c.Read()
	if err != nil {
		return chunk.ID{}, store.Packed{}, unexpectedEnd(err)
	}
	if f.Type == TypeMissing {
		id, err := f.Missing()
		if err == nil {
			err = fmt.Errorf("%w: it pushes the index of chunk %s, which it does not have", ErrProtocol, id)
		}
		return id, store.Packed{}, err
	}
	id, compressed, data, err := f.Chunk()
	p := store.Packed{Form: store.Compressed, Data: data}
	if !compressed {
		p.Form = store.Raw
	}
	return id, p, err
}

// intake puts chunks that come into a store.
type intake struct {
	writer store.Writer
	alg    chunk.Algorithm
	sizes  map[chunk.ID]uint64 // uncompressed, as the index has them
	packer *store.Packer
	plain  []byte // kept for the next chunk
}

// put verifies a chunk and stores it, compressed if it is not yet.
func (in *intake) put(ctx context.Context, id chunk.ID, p store.Packed) (err error) {
	if in.plain, err = store.Unpack(in.plain, p, in.alg, id, in.sizes[id]); err != nil {
		return err
	}
	if p.Form == store.Raw {
		p = in.packer.Pack(nil, in.plain)
	}
	return in.writer.Put(ctx, id, p)
}

// unexpectedEnd names the end of a conversation that is not over.
func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// streamReader reads the bodies of frames of one type as a stream, up to the
// frame that ends it.
type streamReader struct {
	c         *Conn
	data, end Type
	rest      []byte
	err       error
}

// Stream returns the archive or the index that the other side sends, as type
// says.
func (c *Conn) Stream(t Type) io.Reader {
	end := TypeArchiveEOF
	if t == TypeIndex {
		end = TypeIndexEOF
	}
	return &streamReader{c: c, data: t, end: end}
}

func (s *streamReader) Read(p []byte) (int, error) {
	for len(s.rest) == 0 && s.err == nil && len(p) > 0 {
		f, err := s.c.Read()
		switch {
		case err != nil:
			s.err = unexpectedEnd(err)
		case f.Type == s.data:
			s.rest = f.Body
		case f.Type == s.end:
			if s.err = f.Empty(); s.err == nil {
				s.err = io.EOF
			}
		default:
			s.err = f.Expected(s.data.String())
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, s.err
}
