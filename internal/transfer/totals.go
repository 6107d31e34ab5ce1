package transfer

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// count takes stock of the metadata that was fetched.
func (p *Prepared) count() {
	p.MetaRequests, p.MetaBytes = p.files.requests.Load(), p.files.bytes.Load()
	if p.traffic != nil {
		p.MetaRequests, p.MetaBytes = p.traffic.Requests.Load(), p.traffic.Bytes.Load()
	}
}

// Check refuses a plan that may not be carried out, with ErrBudget or a
// *MissingError, or cannot be, with ErrSpace.
func (p *Prepared) Check() error {
	if p.opts.Offline && !p.Present {
		if err := p.missing(); err != nil {
			return err
		}
	}
	if need := p.Total(); p.opts.MaxBytes >= 0 && need > p.opts.MaxBytes {
		return fmt.Errorf("transfer: %w: %s takes %d bytes, at most %d are allowed", ErrBudget, p.Image.Ref, need, p.opts.MaxBytes)
	}
	if p.Present {
		return nil
	}
	return p.checkDisk()
}

// Total returns the number of bytes that the pull transfers in all, those of
// the metadata that have been transferred included.
func (p *Prepared) Total() int64 {
	if p.Present {
		return p.MetaBytes
	}
	return p.MetaBytes + p.wire()
}

// wire returns the bytes of chunks and of a delta that the pull transfers, those
// fetched while seeds were read included.
func (p *Prepared) wire() int64 { return p.Wire() + p.Plan.PerOrigin(seed.Early).Wire }

// Wire returns the number of bytes that are still to be transferred.
func (p *Prepared) Wire() int64 {
	n := p.Plan.PerOrigin(seed.Fetched).Wire
	bytes, _ := p.ofDeltas()
	return n + bytes
}

// ofDeltas returns what is still to be transferred of deltas, and in how many
// requests.
func (p *Prepared) ofDeltas() (bytes, requests int64) {
	var files []*deltaFile
	for _, l := range p.links {
		files = append(files, l.file)
	}
	if p.delta != nil {
		files = append(files, p.delta)
	}
	for _, f := range files {
		if n := f.rest(); n > 0 {
			bytes += n
			requests++
		}
	}
	return bytes, requests
}

// DeltaUse is what a plan takes from deltas.
type DeltaUse struct {
	// Use is what the last delta makes; what those before it make is a seed.
	seed.Use
	// Fetched and Requests are what is still to be transferred of all of them.
	Fetched, Requests int64
}

// Delta returns what the plan takes from deltas. It says false if it takes
// nothing.
func (p *Prepared) Delta() (use DeltaUse, ok bool) {
	if p.Plan == nil || p.delta == nil && len(p.links) == 0 {
		return use, false
	}
	use.Use = p.Plan.FromDelta()
	use.Fetched, use.Requests = p.ofDeltas()
	return use, true
}

// Requests returns the number of requests that the pull makes in all.
func (p *Prepared) Requests() int64 {
	if p.Present {
		return p.MetaRequests
	}
	n := p.MetaRequests + int64(p.Plan.PerOrigin(seed.Fetched).Chunks+p.Plan.PerOrigin(seed.Early).Chunks)
	_, requests := p.ofDeltas()
	return n + requests
}

// countingFiles counts what is read of a repository.
type countingFiles struct {
	repo.Files
	requests, bytes atomic.Int64
}

func (f *countingFiles) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	b, err := f.Files.ReadFile(ctx, path, limit)
	f.requests.Add(1)
	f.bytes.Add(int64(len(b)))
	return b, err
}
