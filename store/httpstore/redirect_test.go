package httpstore

import (
	"net/http"
	"testing"
)

func TestCheckRedirect(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		ok       bool
	}{
		{"http://a/", "http://b/", true},
		{"http://a/", "https://b/", true},
		{"https://a/", "https://b/", true},
		{"https://a/", "http://a/", false},
		{"http://a/", "file:///etc/passwd", false},
		{"https://a/", "ssh://b/", false},
	} {
		from, err := http.NewRequest(http.MethodGet, tt.from, nil)
		if err != nil {
			t.Fatal(err)
		}
		to, err := http.NewRequest(http.MethodGet, tt.to, nil)
		if err != nil {
			t.Fatal(err)
		}
		to.Header.Set("Referer", "http://a/?signature")
		if err := checkRedirect(to, []*http.Request{from}); (err == nil) != tt.ok {
			t.Errorf("%s to %s: %v", tt.from, tt.to, err)
		} else if tt.ok && to.Header.Get("Referer") != "" {
			t.Errorf("%s to %s tells the referer", tt.from, tt.to)
		}
	}
}
