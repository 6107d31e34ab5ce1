package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// maxSwaps is how often a file is read and written anew because another writer
// was faster.
const maxSwaps = 100

// updater changes the files of a repository that change, TAG.json, index.json
// and catalog.json, so that nobody's change is lost: under a lock, or by
// swapping versions.
type updater struct {
	space Space
	swap  Swapper // nil with a lock
	lock  claim   // nil with a Swapper
}

// updating calls f with what changes files of s.
func updating(ctx context.Context, s Space, now func() time.Time, f func(context.Context, *updater) error) error {
	if w, ok := s.(Swapper); ok {
		return f(ctx, &updater{space: s, swap: w})
	}
	return holding(ctx, s, lockName, now, true, func(ctx context.Context, c claim) error {
		return f(ctx, &updater{space: s, lock: c})
	})
}

// load reads the file at path, nil if there is none, and its version.
func (u *updater) load(ctx context.Context, path string, limit int64) (data []byte, version string, err error) {
	if u.swap != nil {
		data, version, err = u.swap.Load(ctx, path, limit)
	} else {
		data, err = u.space.ReadFile(ctx, path, limit)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("repo: %w", err)
	}
	return data, version, nil
}

// store replaces the file at path, of which load has given the version. The
// error wraps store.ErrChanged if it is another one by now.
func (u *updater) store(ctx context.Context, path string, data []byte, version string) error {
	if u.swap != nil {
		if err := u.swap.Swap(ctx, path, data, version); err != nil {
			return fmt.Errorf("repo: %w", err)
		}
		return nil
	}
	held, err := u.lock.held(ctx)
	if err == nil && !held {
		err = errLockLost
	}
	if err != nil {
		return fmt.Errorf("repo: %s/%s: %w", u.space, path, err)
	}
	return put(ctx, u.space, path, data)
}

func put(ctx context.Context, s Space, path string, data []byte) error {
	if err := s.Put(ctx, path, bytes.NewReader(data), int64(len(data))); err != nil {
		return fmt.Errorf("repo: %w", err)
	}
	return nil
}

// again calls f until no other writer is faster.
func again(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if !errors.Is(err, store.ErrChanged) || n == maxSwaps {
			return err
		}
		t := time.NewTimer(rand.N(min(time.Duration(n)*20*time.Millisecond, time.Second)))
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

// update replaces the file at path by what change makes of it, or of nil if
// there is none; nothing if that is nil.
func (u *updater) update(ctx context.Context, path string, limit int64, change func(old []byte) ([]byte, error)) error {
	return again(ctx, func() error {
		old, version, err := u.load(ctx, path, limit)
		if err != nil {
			return err
		}
		data, err := change(old)
		if err != nil {
			return objectError(u.space, path, err)
		}
		if data == nil || bytes.Equal(data, old) {
			return nil
		}
		return u.store(ctx, path, data, version)
	})
}

// updateIndex changes the index.json of a name, which may not exist yet.
func (u *updater) updateIndex(ctx context.Context, name string, change func(*ocispec.Index)) error {
	return u.update(ctx, name+"/"+ocispec.ImageIndexFile, maxTag, func(old []byte) ([]byte, error) {
		index := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
		if old != nil {
			var err error
			if index, err = parseLayoutIndex(old); err != nil {
				return nil, err
			}
		}
		change(index)
		return json.Marshal(index)
	})
}

func parseLayoutIndex(b []byte) (*ocispec.Index, error) {
	index := &ocispec.Index{}
	if err := json.Unmarshal(b, index); err != nil {
		return nil, malformed("%w", err)
	}
	if index.SchemaVersion != 2 {
		return nil, malformed("schemaVersion %d", index.SchemaVersion)
	}
	return index, nil
}
