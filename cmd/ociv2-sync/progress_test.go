package main

import (
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8/decor"
)

// TestBarUnits: bars have the units of results, and the rate of one that is complete stays.
func TestBarUnits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		s    decor.Statistics
		want string
	}{
		{decor.Statistics{Current: 12_300, Total: 4_560_000}, "12.3 kB / 4.56 MB"},
		{decor.Statistics{Current: 12_300}, "12.3 kB"},
	} {
		if got := counters(c.s); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	rate := speed(time.Now().Add(-time.Hour))
	s := decor.Statistics{Current: 7_210_000_000, Total: 7_210_000_000}
	got := rate(s)
	s.Completed, s.Current = true, 0
	if again := rate(s); got != "2.00 MB/s" || again != got {
		t.Errorf("%q, then %q", got, again)
	}
}
