package httpstore

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// link is one of so many bytes per second and so much delay, shared by all.
type link struct {
	mu    sync.Mutex
	free  time.Time
	rate  float64
	delay time.Duration
}

func (l *link) transfer(n int64) {
	l.mu.Lock()
	now := time.Now().Add(l.delay)
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	done := l.free
	l.mu.Unlock()
	time.Sleep(time.Until(done))
}

// The window opens as far as it takes to keep the link busy, and not much
// further.
func TestWindow(t *testing.T) {
	const object, objects, most = 25_000, 3000, 96
	for name, l := range map[string]struct {
		bits       float64
		delay      time.Duration
		fewest     int // in flight at the most
		mostFlying int
	}{
		"20 Mbit/s, 600 ms":  {20e6, 600 * time.Millisecond, 60, most},
		"10 Mbit/s, 100 ms":  {10e6, 100 * time.Millisecond, 5, 32},
		"256 kbit/s, 300 ms": {256e3, 300 * time.Millisecond, 2, 16},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				link := &link{rate: l.bits / 8, delay: l.delay}
				w := newWindow(most)
				var mu sync.Mutex
				flying, highest := 0, 0
				todo := make(chan struct{})
				var wg sync.WaitGroup
				begin := time.Now()
				for range most {
					wg.Go(func() {
						for range todo {
							if err := w.enter(t.Context()); err != nil {
								t.Error(err)
							}
							mu.Lock()
							flying++
							highest = max(highest, flying)
							mu.Unlock()
							link.transfer(object)
							mu.Lock()
							flying--
							mu.Unlock()
							w.leave(object)
						}
					})
				}
				for range objects {
					todo <- struct{}{}
				}
				close(todo)
				wg.Wait()
				busy := objects * object / link.rate / time.Since(begin).Seconds()
				t.Logf("%.1f %% busy, up to %d in flight", busy*100, highest)
				if busy < 0.85 || highest < l.fewest || highest > l.mostFlying {
					t.Errorf("the link is %.1f %% busy, with up to %d in flight", busy*100, highest)
				}
			})
		})
	}
}

// Whoever is cancelled while waiting leaves no hole.
func TestWindowCancel(t *testing.T) {
	w := newWindow(1)
	if err := w.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := w.enter(ctx); err == nil {
				w.leave(0)
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	wg.Go(cancel)
	w.leave(0)
	wg.Wait()
	if err := w.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.leave(0)
	if w.flying != 0 || len(w.waiting) != 0 {
		t.Errorf("%d in flight, %d waiting", w.flying, len(w.waiting))
	}
}
