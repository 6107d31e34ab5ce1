package archive

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

// makeFar makes an index on another machine, and in the store there the chunks
// that it lacks. Which those are it says when it has the index. Until then the
// chunks wait in a temporary directory: what is read may be a stream, or change,
// so it is read once.
func makeFar(ctx context.Context, source string, at sshstore.Location, opts MakeOptions) (_ *Made, err error) {
	to, far, err := stores.SSH(opts.Store)
	switch {
	case err != nil:
		return nil, err
	case !far || to.Host != at.Host || to.Port != at.Port:
		there := at
		there.Path = DefaultStore(at.Path)
		return nil, fmt.Errorf("archive: %w: the store %s is not where the index goes: name one there, such as %s", ErrUsage, opts.Store, there)
	case opts.Cache != "":
		return nil, fmt.Errorf("archive: %w: a cache is for stores on this machine", ErrUsage)
	}
	// Whether that machine can be reached is to be known before all is read.
	push, err := sshstore.OpenPush(ctx, at, to.Path, opts.SSH)
	if err != nil {
		return nil, err
	}
	defer push.Close()
	dir, err := os.MkdirTemp(opts.TempDir, "ociv2-sync-make-")
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	st, err := local.Open(dir, local.Options{})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	made, err := makeChunks(ctx, source, st, &opts)
	if err != nil {
		return nil, err
	}
	sent, err := push.Index(ctx, made.Index.Index, st)
	if err != nil {
		return nil, err
	}
	made.New, made.Packed = sent.Chunks, sent.Bytes
	return made, nil
}
