package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// plainEvery is how often a line of progress is printed where there is no
// terminal to redraw.
const plainEvery = 10 * time.Second

// meter shows how far a task has come. Its methods may be called from several
// goroutines.
type meter struct {
	add  func(bar int, n int64)
	stop func()
}

// bar is one thing that a meter measures, in bytes.
type bar struct {
	name  string
	total int64
}

// meter begins to show progress on stderr, as --progress and the terminal
// want it. The caller calls stop when the task has ended, however it did.
func (a *app) meter(bars ...bar) meter {
	switch {
	case a.quiet || a.progress == "none" || a.json && a.progress == "auto":
		return meter{add: func(int, int64) {}, stop: func() {}}
	case a.progress == "auto" && a.terminal():
		return a.barMeter(bars)
	default:
		return a.plainMeter(bars)
	}
}

// barMeter draws bars with rate and remaining time.
func (a *app) barMeter(bars []bar) meter {
	p := mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(40))
	drawn := make([]*mpb.Bar, len(bars))
	for i, b := range bars {
		drawn[i] = p.AddBar(b.total,
			mpb.PrependDecorators(
				decor.Name(b.name, decor.WCSyncSpaceR),
				decor.Any(counters, decor.WCSyncSpace)),
			mpb.AppendDecorators(
				decor.Percentage(decor.WCSyncSpace),
				decor.Any(speed(time.Now()), decor.WCSyncSpace),
				decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace), "done")))
	}
	return meter{
		add: func(i int, n int64) { drawn[i].IncrInt64(n) },
		stop: func() {
			for _, b := range drawn {
				b.Abort(false) // no effect on one that is complete
			}
			p.Wait()
		},
	}
}

// counters writes how far a bar is, in the units of results.
func counters(s decor.Statistics) string {
	if s.Total <= 0 { // nobody knows
		return human(s.Current)
	}
	return human(s.Current) + " / " + human(s.Total)
}

// speed writes the rate of a bar since it began, which stays when it is complete.
func speed(begin time.Time) decor.DecorFunc {
	rate := ""
	return func(s decor.Statistics) string {
		if !s.Completed || rate == "" {
			rate = human(int64(float64(s.Current)/max(time.Since(begin), time.Millisecond).Seconds())) + "/s"
		}
		return rate
	}
}

// plainMeter prints a line now and then.
func (a *app) plainMeter(bars []bar) meter {
	done := make([]atomic.Int64, len(bars))
	begin := time.Now()
	line := func() {
		for i, b := range bars {
			n := done[i].Load()
			if n == 0 || b.total == 0 {
				continue
			}
			elapsed := time.Since(begin)
			rate := float64(n) / elapsed.Seconds()
			left := time.Duration(float64(b.total-n) / rate * float64(time.Second)).Round(time.Second)
			fmt.Fprintf(a.stderr, "%s: %s of %s (%d %%), %s/s, %s left\n",
				b.name, human(n), human(b.total), 100*n/b.total, human(int64(rate)), max(0, left))
		}
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(plainEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				line()
			case <-quit:
				return
			}
		}
	})
	return meter{
		add: func(i int, n int64) { done[i].Add(n) },
		stop: func() {
			close(quit)
			wg.Wait()
		},
	}
}

// end stops a meter that may not have begun, or may have ended.
func (m *meter) end() {
	if m.stop != nil {
		m.stop()
	}
	*m = meter{add: func(int, int64) {}}
}

// sendingMeter returns what shows how far an upload is, in place of the meter before
// it, and what stops both. The latter waits for nobody: what is noted later is lost.
func (a *app) sendingMeter(before *meter) (note func(n, total int64), stop func()) {
	var mu sync.Mutex
	var m meter
	note = func(n, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if m.add == nil {
			before.end()
			m = a.meter(bar{"sent", total})
		}
		m.add(0, n)
	}
	return note, func() {
		mu.Lock()
		defer mu.Unlock()
		before.end()
		m.end()
	}
}
