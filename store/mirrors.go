package store

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// MirrorOptions say how mirrors are used. The zero value works.
type MirrorOptions struct {
	// Retries is how often all mirrors are asked again after some failed. 0 means
	// 5, negative means never.
	Retries int
	// RetryWait is the wait before the first of those, doubled for each further
	// one, up to a minute, and jittered; and the first time that a mirror which
	// failed is left alone. 0 means 500 ms.
	RetryWait time.Duration
	// Logger is told when a mirror fails and when it works again. nil means nobody
	// is.
	Logger *slog.Logger
}

// Mirrors returns a store of several of which each may have a chunk, asked as [Fastest]
// says. One whose bytes are not the chunk has failed, too: it verifies each chunk, to see
// who lies. It has none of the capabilities of its parts. Stores should not retry for
// long by themselves.
func Mirrors(stores []Store, o MirrorOptions) Store {
	return &mirrors{all: stores, ranking: NewRanking(stores, o)}
}

type mirrors struct {
	all     []Store
	ranking *Ranking[Store]
	spare   sync.Pool // of *[]byte, to expand chunks into
}

// Get implements [Store].
func (m *mirrors) Get(ctx context.Context, id chunk.ID, limit int64) (Packed, error) {
	var p Packed
	err := m.ranking.Ask(ctx, Fastest, func(s Store) (err error) {
		if p, err = s.Get(ctx, id, limit); err != nil {
			return err
		}
		return m.check(p, id)
	})
	if err != nil {
		return Packed{}, err
	}
	return p, nil
}

// check verifies a chunk.
func (m *mirrors) check(p Packed, id chunk.ID) error {
	buf, ok := m.spare.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	out, err := Check(*buf, p, id)
	if err == nil {
		*buf = out
	}
	m.spare.Put(buf)
	return err
}

// String names all.
func (m *mirrors) String() string {
	names := make([]string, len(m.all))
	for i, one := range m.all {
		names[i] = one.String()
	}
	return strings.Join(names, ", ")
}
