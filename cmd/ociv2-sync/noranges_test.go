package main

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// refusing serves a repository and answers a status to each request for a part.
func refusing(t testing.TB, dir string, status int) string {
	t.Helper()
	files := http.FileServer(http.Dir(dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			w.WriteHeader(status)
			return
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// pythonServer serves a directory with Python's web server, which has no ranges.
func pythonServer(t testing.TB, dir string) string {
	t.Helper()
	cmd := exec.Command(testutil.Tool(t, "python3"), "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", dir, "0")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	port := regexp.MustCompile(`port (\d+)`).FindStringSubmatch(line)
	if port == nil {
		t.Fatalf("python3 says %q", line)
	}
	return "http://127.0.0.1:" + port[1]
}

// From a web server without ranges, of which nobody can have the head of a delta
// alone, an update comes in chunks, as the plan says, with one warning.
func TestServersWithoutRanges(t *testing.T) {
	t.Parallel()
	p := publishEdits(t)
	d := newDevice(t)
	d.pull(p.ref(1))
	chunks := d.pull("--delta=never", p.ref(2)).Bytes
	nginx := testutil.StartNginx(t, p.repo, "max_ranges 0;")
	for name, url := range map[string]string{
		"nginx":  nginx.URL,
		"python": pythonServer(t, p.repo),
		"416":    refusing(t, p.repo, http.StatusRequestedRangeNotSatisfiable),
		"501":    refusing(t, p.repo, http.StatusNotImplemented),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.pull(p.ref(1))
			two := url + "/app:2"
			plan := d.plan(two)
			d.fails(exitNotFound, []string{"no delta", "does not send parts of files"}, "pull", "--delta=only", two)
			nginx.Reset()
			r := d.must("--json", "pull", two)
			got := pulledFrom(t, r.stdout)
			if got.Bytes != plan.Total.WireBytes || got.Requests != plan.Total.Requests {
				t.Errorf("%d bytes in %d requests, planned %d in %d", got.Bytes, got.Requests, plan.Total.WireBytes, plan.Total.Requests)
			}
			if got.Bytes != chunks {
				t.Errorf("%d bytes, without deltas %d", got.Bytes, chunks)
			}
			if n := strings.Count(r.stderr, "delta is of no use"); n != 1 {
				t.Errorf("%d warnings:\n%s", n, r.stderr)
			}
			if name == "nginx" {
				var bytes int64
				requests := nginx.Requests()
				for _, r := range requests {
					if r.Range == "" {
						bytes += r.BodyBytes
					}
				}
				if bytes != got.Bytes || int64(len(requests)) != got.Requests {
					t.Errorf("%d bytes in %d requests were served, pull says %d in %d", bytes, len(requests), got.Bytes, got.Requests)
				}
			}
			testutil.CompareTrees(t, p.releases[1], d.tree("app/2"))

			// A bundle takes files as a whole.
			bundle := filepath.Join(t.TempDir(), "bundle")
			d.must("bundle", "--have", url+"/app:1", two, bundle)
			d = newDevice(t)
			d.pull(p.ref(1))
			d.must("pull", "--from-bundle", bundle)
			testutil.CompareTrees(t, p.releases[1], d.tree("app/2"))
		})
	}
}
