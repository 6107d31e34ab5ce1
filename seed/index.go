package seed

import (
	"context"
	"sync/atomic"
)

// Indexed is what [Index] did.
type Indexed struct {
	// Files and Bytes count the files of the tree.
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Read and ReadBytes count those whose digest was not known.
	Read      int   `json:"read"`
	ReadBytes int64 `json:"readBytes"`
}

// indexer is a seed that can learn all of its digests.
type indexer interface {
	index(ctx context.Context) (Indexed, error)
}

// Index learns the digests of all files of a seed, so that no later run reads
// them to plan. It is of use only for a seed that was opened with a Memory; of a
// kind that has nothing to learn, it does nothing.
func Index(ctx context.Context, s Seed) (Indexed, error) {
	if i, ok := s.(indexer); ok {
		return i.index(ctx)
	}
	return Indexed{}, nil
}

func (s *dirSeed) index(ctx context.Context) (Indexed, error) {
	defer s.report()
	scan := s.opts.Memory.Scan(s.path)
	var out Indexed
	var unknown []candidate
	err := s.walk(ctx, scan, func(c candidate, _ string, known *Digest) {
		out.Files++
		out.Bytes += c.size
		if known == nil && c.size > 0 {
			unknown = append(unknown, c)
		}
	})
	if err != nil {
		return out, err
	}
	var read, bytes atomic.Int64
	err = s.hashAll(ctx, scan, unknown, func(candidate) bool { return true }, func(c candidate, _ Digest) {
		read.Add(1)
		bytes.Add(c.size)
	})
	out.Read, out.ReadBytes = int(read.Load()), bytes.Load()
	return out, err
}
