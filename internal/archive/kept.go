package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// kept is a store that asks another one once for each chunk, and keeps what it
// got, as it came, in a temporary file: an archive can be looked over before it is
// extracted without being fetched twice.
type kept struct {
	store.Store
	file *os.File

	mu  sync.Mutex
	end int64
	at  map[chunk.ID]keptAt
}

// keptAt is where a chunk is in the file.
type keptAt struct {
	off  int64
	size int
	form store.Form
}

// keep puts a kept before the store of an index. It is closed with the input.
func (in *Input) keep() error {
	f, err := tempFile(in.tempDir)
	if err != nil {
		return err
	}
	old := in.close
	in.close = func() error { return errors.Join(old(), f.Close()) }
	in.store = &kept{Store: in.store, file: f, at: make(map[chunk.ID]keptAt)}
	return nil
}

// Get implements [store.Store].
func (k *kept) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	k.mu.Lock()
	c, ok := k.at[id]
	k.mu.Unlock()
	if ok {
		data := make([]byte, c.size)
		if _, err := k.file.ReadAt(data, c.off); err != nil && !errors.Is(err, io.EOF) {
			return store.Packed{}, fmt.Errorf("archive: %w", err)
		}
		return store.Packed{Form: c.form, Data: data}, nil
	}
	p, err := k.Store.Get(ctx, id, limit)
	if err != nil {
		return p, err
	}
	k.mu.Lock()
	c = keptAt{off: k.end, size: len(p.Data), form: p.Form}
	k.end += int64(c.size)
	k.mu.Unlock()
	if _, err := k.file.WriteAt(p.Data, c.off); err != nil {
		return store.Packed{}, fmt.Errorf("archive: keep what was fetched: %w", err)
	}
	k.mu.Lock()
	k.at[id] = c
	k.mu.Unlock()
	return p, nil
}
