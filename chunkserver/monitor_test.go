package chunkserver_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
)

func TestMonitor(t *testing.T) {
	dir := repository(t)
	h, err := chunkserver.New(dir, chunkserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	var unready atomic.Bool
	server := httptest.NewServer(chunkserver.NewMonitor(h, chunkserver.MonitorOptions{
		AccessLog: slog.New(slog.NewJSONHandler(&log, nil)), Token: func(s string) bool { return s == "two" },
		Ready: func() error {
			if unready.Load() {
				return errors.New("not ready")
			}
			return nil
		},
	}))
	defer func() {
		server.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	status := func(path string, header ...string) int {
		t.Helper()
		resp, _ := get(t, "GET", server.URL+path, header...)
		return resp.StatusCode
	}
	token := []string{"Authorization", "Bearer two"}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 401, "/catalog.json": 401} {
		if got := status(path); got != want {
			t.Errorf("%s without a token: %d", path, got)
		}
	}
	for _, wrong := range []string{"Bearer three", "Bearer ", "Bearer onetwo", "Basic two", "two"} {
		if got := status("/catalog.json", "Authorization", wrong); got != 401 {
			t.Errorf("%q: %d", wrong, got)
		}
	}
	for range 3 {
		if got := status("/catalog.json", token...); got != 200 {
			t.Errorf("with a token: %d", got)
		}
	}
	if got := status("/absent.json", token...); got != 404 {
		t.Errorf("absent: %d", got)
	}
	unready.Store(true)
	if a, b := status("/readyz"), status("/healthz"); a != 503 || b != 200 {
		t.Errorf("not ready: %d, healthy: %d", a, b)
	}
	_, body := get(t, "GET", server.URL+"/metrics", token...)
	for _, want := range []string{
		`(?m)^ociv2_sync_http_requests_total\{code="200"\} 3$`, `(?m)^ociv2_sync_http_requests_total\{code="401"\} 7$`,
		`(?m)^ociv2_sync_http_requests_total\{code="404"\} 1$`, `(?m)^ociv2_sync_http_requests_in_flight 1$`,
		`(?m)^ociv2_sync_http_request_duration_seconds_bucket\{le="\+Inf"\} 11$`, `(?m)^ociv2_sync_http_request_duration_seconds_count 11$`,
		`(?m)^ociv2_sync_http_response_bytes_total [1-9]`,
	} {
		if !regexp.MustCompile(want).MatchString(body) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	server.Close()
	if n := strings.Count(log.String(), `"msg":"request"`); n != 12 {
		t.Errorf("%d lines in the access log", n)
	}
	if strings.Contains(log.String(), "Bearer") || !strings.Contains(log.String(), `"path":"/catalog.json","status":200,"bytes":23`) {
		t.Errorf("access log:\n%s", log.String())
	}
}
