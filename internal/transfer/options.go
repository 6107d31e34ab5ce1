package transfer

import (
	"fmt"
	"log/slog"

	"github.com/ociv2-sync/ociv2-sync/internal/ocidest"
	"github.com/ociv2-sync/ociv2-sync/internal/offline"
	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// PullOptions are the options of pulling and of planning a pull.
type PullOptions struct {
	// Root is the path of the device's images. They are seeds, and the cache
	// of what was fetched is there, also when the image goes elsewhere.
	Root string
	// Seeds are paths of further seeds.
	Seeds []string
	// Dest is where to pull to; the zero value means the root.
	Dest Dest
	// Replace allows Dest to be there already: a directory is exchanged, a file
	// replaced.
	Replace bool
	// InPlace turns a Dest directory that is there into the image: what does not differ
	// is not touched, what the image does not have is removed.
	InPlace bool
	// Bundle, if not nil, is read in place of the repository, and closed at the end.
	Bundle *offline.Bundle
	// Link says how files get what is on the device already.
	Link LinkPolicy
	// UIDShift is added to owners and groups; only with a Dest of RootFS.
	UIDShift uint32
	// Lenient accepts a tree that lacks what the system did not let us restore,
	// as for an ordinary user owners and devices. Otherwise that is an
	// UnrestoredError.
	Lenient bool
	// Compression is that of the layer of an image.
	Compression ocidest.Compression
	// Registry says how a registry is talked to; TempDir is where the layer waits for
	// it, "" for the default of ocidest.Options.
	Registry registry.Options
	TempDir  string
	// Deltas says whether deltas are used.
	Deltas DeltaPolicy
	// Mirrors are other places of the image's repository.
	Mirrors []string
	// Stores are asked for chunks before the image's own store.
	Stores []string
	// AllowStore lets an image name a chunk store outside its own origin.
	AllowStore bool
	// MaxBytes is the most that may be fetched, metadata included; negative
	// means no limit.
	MaxBytes int64
	// Offline forbids to fetch anything but metadata.
	Offline bool
	// Clients reach repositories and stores that are not on this machine.
	Clients stores.Clients
	// Jobs is the number of chunks requested at a time; 0 means 16.
	Jobs int
	// Logger may be nil.
	Logger *slog.Logger
	// Progress is called from several goroutines with the stored bytes
	// received and the bytes of contents completed since the last call.
	Progress func(received, completed int64)
	// Wrote is called with the bytes of a layer, uncompressed, that were written
	// since the last call.
	Wrote func(n int64)
	// Sending is called with the bytes of that layer that were sent to a registry
	// since the last call, and with how many there are. By then the other two are
	// called no more.
	Sending func(n, total int64)

	layers  layersOpener
	claimed []seed.Seed // what another device has, in place of the root's: for a plan that is not carried out here
}

var errShift = fmt.Errorf("transfer: %w: owners are shifted only in a directory of their own (rootfs:DIR)", ErrUsage)
