package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
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

// Mirrors returns a store of several of which each may have a chunk. The one that
// answers fastest is asked first, reckoned with how often it has what is asked for;
// one that fails, or whose bytes are not the chunk, is left alone for a while, which
// grows, and then tried with one chunk. A chunk is not found if no store has it, and
// none failed.
//
// It verifies each chunk, to see who lies. It has none of the capabilities of its
// parts. Stores should not retry for long by themselves.
func Mirrors(stores []Store, o MirrorOptions) Store {
	m := &mirrors{
		retries: max(cmp.Or(o.Retries, 5), 0),
		wait:    cmp.Or(o.RetryWait, 500*time.Millisecond),
		logger:  cmp.Or(o.Logger, slog.New(slog.DiscardHandler)),
	}
	for _, s := range stores {
		m.all = append(m.all, &mirror{store: s, hits: 1})
	}
	return m
}

const (
	maxMirrorWait = time.Minute
	compareAfter  = 5 * time.Second // without an answer, until a mirror is asked to be measured
	tooSlow       = 8               // times the fastest: such a one is measured more rarely
	smoothing     = 0.1             // of measurements
	fewestHits    = 0.02            // of those asked for, so that a mirror is not written off
)

type mirrors struct {
	all     []*mirror
	retries int
	wait    time.Duration
	logger  *slog.Logger
	spare   sync.Pool  // of *[]byte, to expand chunks into
	mu      sync.Mutex // guards what is in the mirrors
}

// mirror is a store and what is known of it.
type mirror struct {
	store    Store
	took     float64 // seconds for a chunk, usually; 0: not known
	hits     float64 // share of chunks that it has
	asked    time.Time
	failures int
	until    time.Time // it is left alone; zero: it is healthy
}

// cost is how long it takes to find a chunk by asking, on average.
func (m *mirror) cost() float64 { return m.took / max(m.hits, fewestHits) }

// Get implements [Store].
func (m *mirrors) Get(ctx context.Context, id chunk.ID, limit int64) (Packed, error) {
	for round := 0; ; round++ {
		var failed error
		absent := NotFound(m.String(), id)
		for _, one := range m.order(time.Now()) {
			begin := time.Now()
			p, err := one.store.Get(ctx, id, limit)
			if err == nil {
				err = m.check(p, id)
			}
			if ctx.Err() != nil {
				return Packed{}, ctx.Err()
			}
			m.note(one, time.Since(begin), err)
			switch {
			case err == nil:
				return p, nil
			case errors.Is(err, ErrNotFound):
				absent = err
			case failed == nil || !errors.Is(failed, ErrNetwork): // what may work the next time says more
				failed = err
			}
		}
		switch {
		case failed == nil:
			return Packed{}, absent
		case round >= m.retries || !errors.Is(failed, ErrNetwork):
			return Packed{}, fmt.Errorf("no mirror gives it: %w", failed)
		}
		pause := min(m.wait<<min(round, 16), maxMirrorWait)
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Packed{}, ctx.Err()
		}
	}
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

// order returns the mirrors in the order in which to ask them: the healthy ones by
// what they cost, then the others, those first that are left alone for the shortest.
func (m *mirrors) order(now time.Time) []*mirror {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := slices.Clone(m.all)
	slices.SortStableFunc(list, func(a, b *mirror) int {
		aDown, bDown := now.Before(a.until), now.Before(b.until)
		switch {
		case aDown && bDown:
			return a.until.Compare(b.until)
		case aDown != bDown:
			return map[bool]int{true: 1, false: -1}[aDown]
		}
		return cmp.Compare(a.cost(), b.cost())
	})
	// One that failed is tried, and one that has not been asked for long measured,
	// by this chunk alone.
	for i, one := range list {
		if now.Before(one.until) {
			break
		}
		again := compareAfter
		if one.took > tooSlow*list[0].took {
			again *= tooSlow
		}
		if one.failures > 0 || one.took == 0 && !one.asked.IsZero() || i > 0 && now.Sub(one.asked) > again {
			if one.failures > 0 {
				one.until = now.Add(m.pause(one))
			}
			one.asked = now
			list = slices.Insert(slices.Delete(list, i, i+1), 0, one)
			break
		}
	}
	list[0].asked = now
	return list
}

// pause is how long a mirror that has failed is left alone.
func (m *mirrors) pause(one *mirror) time.Duration {
	return min(m.wait<<min(one.failures-1, 16), maxMirrorWait)
}

// note remembers what asking a mirror came to.
func (m *mirrors) note(one *mirror, took time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := errors.Is(err, ErrNotFound)
	if err != nil && !found {
		// Many fail together when one breaks: that counts once.
		if now := time.Now(); !now.Before(one.until) || one.failures == 0 {
			one.failures++
			one.until = now.Add(m.pause(one))
			m.logger.Info("a mirror fails, others are asked", "store", one.store.String(), "for", m.pause(one), "reason", err)
		}
		return
	}
	if one.failures > 0 {
		m.logger.Info("a mirror works again", "store", one.store.String())
	}
	one.failures, one.until = 0, time.Time{}
	hit := 1.0
	if found {
		hit = 0
	}
	one.hits += (hit - one.hits) * smoothing
	if one.took == 0 {
		one.took = took.Seconds()
	}
	one.took += (took.Seconds() - one.took) * smoothing
}

// String names all.
func (m *mirrors) String() string {
	names := make([]string, len(m.all))
	for i, one := range m.all {
		names[i] = one.store.String()
	}
	return strings.Join(names, ", ")
}
