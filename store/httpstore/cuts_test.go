package httpstore_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/relay"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// 40 MB over connections that are cut after 2 MB on average arrive without help, and
// cost at most 5 % more bytes than without cuts.
func TestCuts(t *testing.T) {
	const size, objects = 40_000, 1000
	content := make([]byte, size)
	if _, err := rand.NewChaCha8([32]byte{}).Read(content); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+r.URL.Path+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	defer server.Close()
	r, err := relay.Listen(t.Context(), "127.0.0.1:0", strings.TrimPrefix(server.URL, "http://"), relay.Options{Cut: 2_000_000})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	client := httpstore.NewClient(httpstore.Options{Jobs: 32, RetryWait: 10 * time.Millisecond})
	defer client.Close()
	todo := make(chan int)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := range todo {
				b, err := client.Get(t.Context(), fmt.Sprintf("http://%s/%d", r.Addr(), i), size)
				if err != nil || !bytes.Equal(b, content) {
					t.Errorf("object %d: %d bytes, %v", i, len(b), err)
				}
			}
		})
	}
	for i := range objects {
		todo <- i
	}
	close(todo)
	wg.Wait()
	s := r.Stats()
	t.Logf("%d cuts, %.2f %% more than the objects have", s.Cuts, 100*float64(s.ToClient-size*objects)/(size*objects))
	if s.Cuts < 5 || s.ToClient > size*objects*105/100 {
		t.Errorf("%d cuts, %d bytes for %d", s.Cuts, s.ToClient, size*objects)
	}
}
