package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Way is how the places of a [Ranking] are asked.
type Way int

const (
	// Fastest asks the one first that answers fastest, reckoned with how often it has
	// what is asked for, and is for things of about one size, as chunks are: how long
	// each takes is remembered.
	Fastest Way = iota
	// AnySize is Fastest by what was remembered, which this changes nothing in.
	AnySize
	// InOrder asks in the order of the list, for what may differ from place to place:
	// what the first says is not there is not there.
	InOrder
)

// Ranking is several places of which each may have what is wanted. One that fails is
// asked last for a while, which grows, and then tried with one question. It may be used
// by several goroutines at once.
type Ranking[T Place] struct {
	all     []*ranked[T]
	retries int
	wait    time.Duration
	logger  *slog.Logger
	mu      sync.Mutex // guards what is in the places
}

// Place is where something may be asked for. Its name is for messages.
type Place interface {
	comparable
	fmt.Stringer
}

// NewRanking returns a ranking of places, at least one.
func NewRanking[T Place](places []T, o MirrorOptions) *Ranking[T] {
	r := &Ranking[T]{
		retries: max(cmp.Or(o.Retries, 5), 0),
		wait:    cmp.Or(o.RetryWait, 500*time.Millisecond),
		logger:  cmp.Or(o.Logger, slog.New(slog.DiscardHandler)),
	}
	for _, p := range places {
		r.all = append(r.all, &ranked[T]{place: p, hits: 1})
	}
	return r
}

const (
	maxMirrorWait = time.Minute
	compareAfter  = 5 * time.Second // without an answer, until a place is asked to be measured
	tooSlow       = 8               // times the fastest: such a one is measured more rarely
	smoothing     = 0.1             // of measurements
	fewestHits    = 0.02            // of those asked for, so that a place is not written off
)

// ranked is a place and what is known of it.
type ranked[T Place] struct {
	place    T
	took     float64 // seconds for an answer, usually; 0: not known
	hits     float64 // share of questions that it has an answer to
	asked    time.Time
	failures int
	until    time.Time // it is left alone; zero: it is healthy
	told     bool      // that it fails by no fault of the network
}

// cost is how long it takes to find something by asking, on average.
func (m *ranked[T]) cost() float64 { return m.took / max(m.hits, fewestHits) }

// Ask has ask ask one place after the other until one does not fail: its errors wrap
// [ErrNotFound] where there is nothing. When all have been asked, and what is wrong with
// one is [ErrNetwork], all are asked again, after a while. It is not found if no place
// has it, and none failed.
func (r *Ranking[T]) Ask(ctx context.Context, way Way, ask func(T) error) error {
	for round := 0; ; round++ {
		var failed, absent error
		for _, one := range r.order(time.Now(), way) {
			begin := time.Now()
			err := ask(one.place)
			if ctx.Err() != nil && err != nil {
				return ctx.Err()
			}
			r.note(one, way, time.Since(begin), err)
			switch {
			case err == nil:
				return nil
			case errors.Is(err, ErrNotFound):
				if absent = err; way == InOrder && one == r.all[0] {
					return err // an older copy is none of what is gone
				}
			case failed == nil || !errors.Is(failed, ErrNetwork): // what may work the next time says more
				failed = err
			}
		}
		switch {
		case failed == nil:
			return absent
		case round >= r.retries || !errors.Is(failed, ErrNetwork):
			return fmt.Errorf("no mirror gives it: %w", failed)
		}
		pause := min(r.wait<<min(round, 16), maxMirrorWait)
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// Failed tells that a place failed after all, when it had been asked.
func (r *Ranking[T]) Failed(place T, err error) {
	for _, one := range r.all {
		if one.place == place {
			r.note(one, AnySize, 0, err)
		}
	}
}

// order returns the places in the order in which to ask them: the healthy ones by the
// way, then the others, those first that are left alone for the shortest.
func (r *Ranking[T]) order(now time.Time, way Way) []*ranked[T] {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.all)
	slices.SortStableFunc(list, func(a, b *ranked[T]) int {
		aDown, bDown := now.Before(a.until), now.Before(b.until)
		switch {
		case aDown && bDown:
			return a.until.Compare(b.until)
		case aDown != bDown:
			return map[bool]int{true: 1, false: -1}[aDown]
		case way == InOrder:
			return 0
		}
		return cmp.Compare(a.cost(), b.cost())
	})
	// One that failed is tried, and one that has not been asked for long measured,
	// by this question alone.
	for i, one := range list {
		if now.Before(one.until) || way == InOrder && i > 0 {
			break
		}
		again := compareAfter
		if one.took > tooSlow*list[0].took {
			again *= tooSlow
		}
		measure := way == Fastest && (one.took == 0 && !one.asked.IsZero() || i > 0 && now.Sub(one.asked) > again)
		if one.failures > 0 || measure {
			if one.failures > 0 {
				one.until = now.Add(r.pause(one))
			}
			list = slices.Insert(slices.Delete(list, i, i+1), 0, one)
			break
		}
	}
	if way == Fastest {
		list[0].asked = now
	}
	return list
}

// pause is how long a place that has failed is left alone.
func (r *Ranking[T]) pause(one *ranked[T]) time.Duration {
	return min(r.wait<<min(one.failures-1, 16), maxMirrorWait)
}

// note remembers what asking a place came to.
func (r *Ranking[T]) note(one *ranked[T], way Way, took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := errors.Is(err, ErrNotFound)
	if err != nil && !found {
		// Many fail together when one breaks: that counts once.
		if now := time.Now(); !now.Before(one.until) || one.failures == 0 {
			one.failures++
			one.until = now.Add(r.pause(one))
			level := slog.LevelInfo
			if !errors.Is(err, ErrNetwork) && !one.told {
				level, one.told = slog.LevelWarn, true // once: it is for somebody to mend
			}
			r.logger.Log(context.Background(), level, "a mirror fails, others are asked", "mirror", one.place.String(), "for", r.pause(one), "reason", err)
		}
		return
	}
	if one.failures > 0 {
		r.logger.Info("a mirror works again", "mirror", one.place.String())
	}
	one.failures, one.until = 0, time.Time{}
	if way != Fastest {
		return
	}
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
