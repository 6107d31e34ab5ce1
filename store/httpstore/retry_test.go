package httpstore

import (
	"net/http"
	"testing"
	"time"
)

// What may be gone the next time is tried again, other answers are final.
func TestRetryable(t *testing.T) {
	for code := 100; code < 600; code++ {
		want := false
		switch code {
		case 408, 425, 429, 500, 502, 503, 504:
			want = true
		}
		if again, err := checkRetry(t.Context(), &http.Response{StatusCode: code}, nil); again != want || err != nil {
			t.Errorf("%d: %t, %v", code, again, err)
		}
	}
}

// The wait doubles, between half of it and all, up to a minute; what the server asks
// for counts where it is longer, in seconds or as a date, up to the same minute.
func TestBackoff(t *testing.T) {
	const first = 500 * time.Millisecond
	for n := range 100 {
		most := maxRetryWait
		if n < 7 {
			most = min(first<<n, maxRetryWait)
		}
		if got := backoff(first, maxRetryWait, n, nil); got < most/2 || got > most {
			t.Errorf("retry %d: %v, at most %v", n, got, most)
		}
	}
	for after, want := range map[string][2]time.Duration{
		"":      {first / 2, first},
		"0":     {first / 2, first},
		"7":     {7 * time.Second, 7 * time.Second},
		"86400": {maxRetryWait, maxRetryWait},
		"-5":    {first / 2, first},
		"soon":  {first / 2, first},
		time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat): {10 * time.Second, 20 * time.Second},
		time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat):       {first / 2, first},
	} {
		for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			resp := &http.Response{StatusCode: code, Header: http.Header{"Retry-After": {after}}}
			if got := backoff(first, maxRetryWait, 0, resp); got < want[0] || got > want[1] {
				t.Errorf("%d, Retry-After %q: %v, want %v to %v", code, after, got, want[0], want[1])
			}
		}
	}
}
