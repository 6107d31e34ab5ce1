package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// planned is what plan --json says.
type planned struct {
	Sources []planSource `json:"sources"`
	Total   planSource   `json:"total"`
	Disk    int64        `json:"diskBytes"`
}

func (d *device) plan(args ...string) planned {
	d.t.Helper()
	var p planned
	must(d.t, json.Unmarshal([]byte(d.must(append([]string{"--json", "plan"}, args...)...).stdout), &p))
	return p
}

// pulled is what pull --json says.
type pulled struct {
	Bytes    int64 `json:"bytes"`
	Requests int64 `json:"requests"`
	Copied   int   `json:"contentsFromSeeds"`
	Lost     int   `json:"contentsLostBySeeds"`
}

func (d *device) pull(args ...string) pulled {
	d.t.Helper()
	return pulledFrom(d.t, d.must(append([]string{"--json", "pull"}, args...)...).stdout)
}

// pulledFrom reads what pull --json prints.
func pulledFrom(t testing.TB, stdout string) (p pulled) {
	t.Helper()
	must(t, json.Unmarshal([]byte(stdout), &p))
	return p
}

// TestPullTransfersWhatPlanSays counts, in the log of a real web server, that a
// plan transfers metadata alone and a pull exactly what the plan says.
func TestPullTransfersWhatPlanSays(t *testing.T) {
	t.Parallel()
	p := publish(t)
	nginx := testutil.StartNginx(t, p.repo)
	one, two := nginx.URL+"/app:1", nginx.URL+"/app:2"
	partial := t.TempDir() // a seed with some of the files, under other names
	for i, name := range []string{"lib03.so", "lib04.so", "lib05.so"} {
		b, err := os.ReadFile(filepath.Join(p.releases[0], "usr/lib", name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(partial, strings.Repeat("x", i+1)), b, 0o600))
	}
	for name, tt := range map[string]struct {
		before [][]string // pulls that come first
		args   []string
	}{
		"empty root":          {nil, []string{one}},
		"previous release":    {[][]string{{one}}, []string{two}},
		"same release":        {[][]string{{one}}, []string{one}},
		"previous and a seed": {[][]string{{one}}, []string{two, "--seed", p.releases[1]}},
		"partial seed":        {nil, []string{one, "--seed", partial}},
		"all in seeds":        {nil, []string{two, "--seed", p.releases[1]}},
		"directory":           {[][]string{{one}}, []string{two, "rootfs:DEST"}},
		"from a store":        {nil, []string{one, "--store", nginx.URL + "/default.castr"}},
		"local repository":    {nil, []string{p.ref(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			for _, args := range tt.before {
				d.pull(args...)
			}
			for i, arg := range tt.args {
				tt.args[i] = strings.Replace(arg, "DEST", filepath.Join(t.TempDir(), "dest"), 1)
			}
			check := unchanged(t, d.state()...)
			nginx.Reset()
			plan := d.plan(tt.args...)
			meta := plan.Sources[len(plan.Sources)-1]
			requests, bytes := nginx.Count()
			local := tt.args[0] == p.ref(1)
			if local {
				requests, bytes = int(meta.Requests), meta.WireBytes
			}
			if bytes != meta.WireBytes || requests != int(meta.Requests) {
				t.Errorf("plan transfers %d bytes in %d requests, and says %+v", bytes, requests, meta)
			}
			check()

			nginx.Reset()
			pull := d.pull(tt.args...)
			if pull.Bytes != plan.Total.WireBytes || pull.Requests != plan.Total.Requests {
				t.Errorf("pull reports %+v, plan %+v", pull, plan.Total)
			}
			if local {
				return
			}
			requests, bytes = nginx.Count()
			if bytes != plan.Total.WireBytes || requests != int(plan.Total.Requests) {
				t.Errorf("pull transfers %d bytes in %d requests, plan says %+v", bytes, requests, plan.Total)
			}
			seen := map[string]bool{}
			for _, r := range nginx.Requests() {
				if seen[r.Path+r.Range] || r.Method != http.MethodGet || r.Status != http.StatusOK && r.Status != http.StatusPartialContent {
					t.Errorf("asked again, or in vain: %+v", r)
				}
				seen[r.Path+r.Range] = true
			}
			if name == "same release" && (requests != 1 || !seen["/app/1.json"]) {
				t.Errorf("%d requests for an image that is there, %v, want TAG.json alone", requests, seen)
			}
			if name == "all in seeds" && requests != 2 {
				t.Errorf("%d requests for an image whose contents are all there, want TAG.json and the table of contents", requests)
			}
		})
	}
}

// TestBudget counts that nothing beside metadata is fetched for a pull that is
// over its budget by one byte, and that one byte more is enough.
func TestBudget(t *testing.T) {
	t.Parallel()
	p := publish(t)
	nginx := testutil.StartNginx(t, p.repo)
	d := newDevice(t)
	plan := d.plan(nginx.URL + "/app:1")
	nginx.Reset()
	limit := plan.Total.WireBytes
	d.fails(exitBudget, []string{"over budget"}, "pull", "-q", nginx.URL+"/app:1", "--max-bytes", decimal(limit-1))
	meta := plan.Sources[len(plan.Sources)-1]
	if _, bytes := nginx.Count(); bytes != meta.WireBytes {
		t.Errorf("%d bytes transferred, want the %d of the metadata", bytes, meta.WireBytes)
	}
	d.must("pull", nginx.URL+"/app:1", "--max-bytes", decimal(limit))
}

func decimal(n int64) string { b, _ := json.Marshal(n); return string(b) }

// TestRequestsInFlight counts the requests that are open at a time, at a server far
// away: as many as the link has use for, which is more than there are, and --jobs at
// most.
func TestRequestsInFlight(t *testing.T) {
	t.Parallel()
	p := publish(t)
	for _, jobs := range []int64{0, 3, 40} {
		var open, most atomic.Int64
		files := http.FileServer(http.Dir(p.repo))
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := open.Add(1)
			defer open.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			select {
			case <-r.Context().Done():
			case <-time.After(200 * time.Millisecond):
			}
			files.ServeHTTP(w, r)
		}))
		args := []string{"pull", server.URL + "/app:1"}
		if jobs != 0 {
			args = append(args, "--jobs", decimal(jobs))
		}
		newDevice(t).must(args...)
		server.Close()
		got, least, limit := most.Load(), min(16, jobs), jobs
		if jobs == 0 {
			least, limit = 16, 192 // the default
		}
		if got < least || got > limit {
			t.Errorf("--jobs %d: %d requests at a time", jobs, got)
		}
	}
}
