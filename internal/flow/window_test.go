package flow

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

// transfer takes as long as an object of n bytes does, and tells w about it.
func (l *link) transfer(w *Window, n int64) {
	sent := time.Now()
	l.mu.Lock()
	begin := sent.Add(l.delay)
	if l.free.After(begin) {
		begin = l.free
	}
	rate := l.rate
	l.free = begin.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	l.mu.Unlock()
	time.Sleep(time.Until(begin))
	w.Answered(time.Since(sent))
	for n > 0 {
		part := min(n, 8<<10)
		time.Sleep(time.Duration(float64(part) / rate * float64(time.Second)))
		w.Arrived(int(part))
		n -= part
	}
}

// pull has objects of sizes transferred by many, and returns how busy that kept
// the link and how many were in flight at the most in the second half.
func pull(t *testing.T, w *Window, l *link, objects int, size func(i int) (limit, n int64)) (busy float64, highest int) {
	var mu sync.Mutex
	flying, total := 0, int64(0)
	todo := make(chan int)
	var wg sync.WaitGroup
	begin := time.Now()
	for range w.most {
		wg.Go(func() {
			for i := range todo {
				limit, n := size(i)
				cost, err := w.Enter(t.Context(), limit)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				flying++
				if i > objects/2 {
					highest = max(highest, flying)
				}
				total += n
				mu.Unlock()
				l.transfer(w, n)
				mu.Lock()
				flying--
				mu.Unlock()
				w.Leave(cost, limit, n)
			}
		})
	}
	for i := range objects {
		todo <- i
	}
	close(todo)
	wg.Wait()
	if w.flying != 0 || w.load != 0 || len(w.waiting) != 0 {
		t.Errorf("%d requests, %d bytes in flight, %d waiting", w.flying, w.load, len(w.waiting))
	}
	return float64(total) / l.rate / time.Since(begin).Seconds(), highest
}

// The window opens as far as it takes to keep the link busy, and not much
// further, whatever the sizes of objects and however little limits say of them.
func TestWindow(t *testing.T) {
	sizes := map[string]func(int) (limit, n int64){
		"equal":   func(int) (int64, int64) { return 25_000, 25_000 },
		"chunks":  func(i int) (int64, int64) { n := int64(2000 + i*7919%50_000); return n, n },
		"in runs": func(i int) (int64, int64) { n := int64(8000 + i/200%2*40_000); return n, n },
		"bounded": func(i int) (int64, int64) { n := int64(10_000 + i*7919%30_000); return 4*n + 1000, n },
	}
	for name, l := range map[string]struct {
		bits       float64
		delay      time.Duration
		objects    int
		fewest     int // in flight at the most
		mostFlying int
	}{
		"1 Gbit/s, 0 ms":     {1e9, 200 * time.Microsecond, 20_000, 4, 192},
		"20 Mbit/s, 600 ms":  {20e6, 600 * time.Millisecond, 3000, 60, 192},
		"10 Mbit/s, 100 ms":  {10e6, 100 * time.Millisecond, 2000, 5, 60},
		"256 kbit/s, 300 ms": {256e3, 300 * time.Millisecond, 300, 2, 40},
	} {
		for what, size := range sizes {
			t.Run(name+", "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					busy, highest := pull(t, New(192), &link{rate: l.bits / 8, delay: l.delay}, l.objects, size)
					t.Logf("%.1f %% busy, up to %d in flight", busy*100, highest)
					if busy < 0.85 || highest < l.fewest || highest > l.mostFlying {
						t.Errorf("the link is %.1f %% busy, with up to %d in flight", busy*100, highest)
					}
				})
			})
		}
	}
}

// A server may answer what it has at hand at once, and take long for the rest: as many
// requests are made then as that takes.
func TestWindowServerSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, l := New(192), &link{rate: 12.5e6, delay: time.Millisecond}
		size := func(int) (int64, int64) { return 25_000, 25_000 }
		_, _ = pull(t, w, l, 10, size)
		l.delay = 500 * time.Millisecond
		begin := time.Now()
		_, _ = pull(t, w, l, 3000, size) // 192 at a time take 8 s
		if took := time.Since(begin); took > 16*time.Second {
			t.Errorf("3000 objects took %v", took)
		}
	})
}

// Where nothing is what comes, as from a mirror that has none of the chunks, many
// requests take hardly longer than few.
func TestWindowNothingThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, l := New(192), &link{rate: 2.5e6, delay: 600 * time.Millisecond}
		begin := time.Now()
		var wg sync.WaitGroup
		for range 400 {
			wg.Go(func() {
				cost, err := w.Enter(t.Context(), 50_000)
				if err != nil {
					t.Error(err)
				}
				l.transfer(w, 150) // of an error page
				w.Leave(cost, 50_000, 0)
			})
		}
		wg.Wait()
		if trips := float64(time.Since(begin)) / float64(l.delay); trips > 10 {
			t.Errorf("%.1f round trips", trips)
		}
	})
}

// A way that becomes longer, shorter, wider or narrower is measured anew.
func TestWindowChanges(t *testing.T) {
	size := func(i int) (int64, int64) { n := int64(2000 + i*7919%50_000); return n, n }
	synctest.Test(t, func(t *testing.T) {
		w, l := New(192), &link{}
		for _, to := range []struct {
			rate  float64
			delay time.Duration
		}{
			{rate: 1.25e6, delay: 50 * time.Millisecond},
			{rate: 1.25e6, delay: 600 * time.Millisecond},
			{rate: 2.5e6, delay: 600 * time.Millisecond},
			{rate: 2.5e6, delay: 50 * time.Millisecond},
			{rate: 125e3, delay: 50 * time.Millisecond},
		} {
			l.rate, l.delay = to.rate, to.delay
			_, _ = pull(t, w, l, int(l.rate*60/27_000), size) // a minute
			busy, highest := pull(t, w, l, int(l.rate*60/27_000), size)
			product := l.rate * max(l.delay, minDelay).Seconds()
			t.Logf("%.0f kB/s, %v: %.1f %% busy, up to %d in flight", l.rate/1e3, l.delay, busy*100, highest)
			if busy < 0.9 || float64(w.limit) > 3.5*product+firstWindow {
				t.Errorf("%.0f kB/s, %v: %.1f %% busy, window of %d", l.rate/1e3, l.delay, busy*100, w.limit)
			}
		}
	})
}

// Whoever is cancelled while waiting leaves no hole.
func TestWindowCancel(t *testing.T) {
	w := New(1)
	if _, err := w.Enter(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if cost, err := w.Enter(ctx, 1); err == nil {
				w.Leave(cost, 1, -1)
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	wg.Go(cancel)
	w.Leave(1, 1, -1)
	wg.Wait()
	if _, err := w.Enter(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	w.Leave(1, 1, -1)
	if w.flying != 0 || len(w.waiting) != 0 {
		t.Errorf("%d in flight, %d waiting", w.flying, len(w.waiting))
	}
}

// Bytes that come unasked, before any answer has been timed, tell of the bandwidth; with a
// guess of the delay the first requests fill the link.
func TestGuess(t *testing.T) {
	for _, guess := range []time.Duration{0, 600 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			w, want := New(100), int64(firstWindow)
			if guess > 0 {
				w.Guess(guess)
				w.Guess(time.Hour) // after the first
				want = 3 * 1_500_000
			}
			for range 100 {
				time.Sleep(2 * time.Millisecond)
				w.Arrived(5000)
			}
			if _, err := w.Enter(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			if w.limit < want || w.limit > want+want/50 {
				t.Errorf("with a guess of %v: %d bytes at a time", guess, w.limit)
			}
			w.Answered(10 * time.Millisecond)
			if w.adjust(time.Now()); w.limit > firstWindow {
				t.Errorf("after an answer: %d bytes at a time", w.limit)
			}
		})
	}
}
