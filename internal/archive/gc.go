package archive

import (
	"context"
	"errors"
	"fmt"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// GCOptions are the options of GC.
type GCOptions struct {
	// Store is the directory of the chunk store; "" means the one beside the
	// indexes, which must then lie beside the same.
	Store string
	// DryRun removes nothing.
	DryRun bool
	// Clients reach indexes on other machines.
	Clients stores.Clients
	// Removing is called with each chunk that goes, or would.
	Removing func(chunk.ID)
}

// Collected is what GC did, or would do.
type Collected struct {
	Used        int   // different chunks that the indexes name
	Kept        int   // chunks that the store keeps
	Removed     int   // chunks removed
	Bytes       int64 // what they took, packed
	Directories int   // empty directories removed
}

// GC removes from a store the chunks that none of the indexes names. Every index
// is read, and must be whole, before the first chunk goes. The store is locked
// against makers of indexes meanwhile. What lies in the store and is no chunk is
// left alone.
func GC(ctx context.Context, indexes []string, opts GCOptions) (_ *Collected, err error) {
	dir, err := storeOf(indexes, opts.Store)
	if err != nil {
		return nil, err
	}
	st, err := local.Open(dir, local.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	unlock, err := st.Lock(ctx, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	used, err := usedChunks(ctx, indexes, opts.Clients)
	if err != nil {
		return nil, err
	}
	done := &Collected{Used: len(used)}
	for id, err := range st.List(ctx) {
		if err != nil {
			return done, err
		}
		if _, ok := used[id]; ok {
			done.Kept++
			continue
		}
		size, err := st.StoredSize(ctx, id)
		if err != nil {
			return done, err
		}
		if opts.Removing != nil {
			opts.Removing(id)
		}
		if !opts.DryRun {
			if err := st.Delete(ctx, id); err != nil {
				return done, err
			}
		}
		done.Removed++
		done.Bytes += size
	}
	if !opts.DryRun {
		done.Directories, err = st.Prune()
	}
	return done, err
}

// usedChunks returns the chunks that indexes name.
func usedChunks(ctx context.Context, indexes []string, clients stores.Clients) (map[chunk.ID]struct{}, error) {
	used := make(map[chunk.ID]struct{})
	for _, name := range indexes {
		x, err := readIndex(ctx, name, clients)
		if err != nil {
			return nil, err
		}
		for _, c := range x.Chunks {
			used[c.ID] = struct{}{}
		}
	}
	return used, nil
}

// storeOf returns the store that indexes have in common.
func storeOf(indexes []string, given string) (string, error) {
	if len(indexes) == 0 {
		return "", fmt.Errorf("archive: %w: no index names what is to be kept", ErrUsage)
	}
	for _, name := range indexes {
		if k := KindOf(name); k != ArchiveIndex && k != BlobIndex {
			return "", fmt.Errorf("archive: %w: %s is not an index (.caidx or .caibx)", ErrUsage, name)
		}
	}
	dir := given
	for _, name := range indexes {
		if given != "" {
			break
		}
		own := DefaultStore(name)
		if dir != "" && dir != own {
			return "", fmt.Errorf("archive: %w: the indexes lie beside different stores, %s and %s; say which one", ErrUsage, dir, own)
		}
		dir = own
	}
	if _, ok := parseURL(dir); ok {
		return "", fmt.Errorf("archive: %w: the store %s is not a directory", ErrUsage, dir)
	}
	return dir, nil
}
