package seed

import (
	"context"
	"io"
	"log/slog"
	"sync"
)

// Base is a content that a delta needs: its size and the beginning of its
// digest.
type Base struct {
	Prefix [prefixSize]byte
	Size   int64
}

// Place is where a seed has a content.
type Place struct {
	Seed Seed // nil if none has it
	Path string
}

// Open opens the content, whose bytes are unverified.
func (p Place) Open(ctx context.Context) (io.ReadCloser, error) { return p.Seed.Open(ctx, p.Path) }

// Locate asks the seeds, in their order, for bases, and returns the place of
// each. A seed that cannot be used is passed over; log, which may be nil, is
// told.
func Locate(ctx context.Context, bases []Base, seeds []Seed, log *slog.Logger) ([]Place, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	want := Wanted{short: true}
	index := make(map[Digest][]int, len(bases))
	key := func(b Base) (d Digest) {
		copy(d[:], b.Prefix[:])
		return d
	}
	var contents []Content
	for i, b := range bases {
		k := key(b)
		if index[k] == nil {
			contents = append(contents, Content{Digest: &k, Size: b.Size})
		}
		index[k] = append(index[k], i)
	}
	want.set(contents)
	places := make([]Place, len(bases))
	for _, s := range seeds {
		if want.Left() == 0 {
			break
		}
		var mu sync.Mutex
		err := s.Find(ctx, &want, func(d Digest, path string) {
			mu.Lock()
			defer mu.Unlock()
			for _, i := range index[want.key(d)] {
				places[i] = Place{s, path}
			}
		})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			log.Warn("seed passed over", "seed", s, "reason", err)
		}
	}
	return places, nil
}
