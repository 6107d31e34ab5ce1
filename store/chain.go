package store

import (
	"context"
	"errors"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// Chain returns a store that asks each of stores in turn and returns the first
// answer other than [ErrNotFound]. It has none of the capabilities of its
// parts: which part should be written to is for the caller to say.
func Chain(stores ...Store) Store { return chain(stores) }

type chain []Store

func (c chain) Get(ctx context.Context, id chunk.ID, limit int64) (Packed, error) {
	err := NotFound("no store", id)
	for _, s := range c {
		var p Packed
		if p, err = s.Get(ctx, id, limit); !errors.Is(err, ErrNotFound) {
			return p, err
		}
	}
	return Packed{}, err
}

func (c chain) String() string {
	names := make([]string, len(c))
	for i, s := range c {
		names[i] = s.String()
	}
	return strings.Join(names, ", ")
}
