package chunkserver_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// raw sends what no client library would and returns the response.
func raw(t *testing.T, server *httptest.Server, request string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	return resp, string(body)
}

// both returns a server of dir, and a proxy in front of it.
func both(t *testing.T, dir string) map[string]*httptest.Server {
	t.Helper()
	s, err := chunkserver.New(dir, chunkserver.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	client := httpstore.NewClient(httpstore.Options{Retries: -1})
	up, err := client.Dir(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	p, err := chunkserver.NewProxy(up, t.TempDir(), chunkserver.ProxyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(p)
	t.Cleanup(func() {
		proxy.Close()
		server.Close()
		client.Close()
		if err := errors.Join(p.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	return map[string]*httptest.Server{"server": server, "proxy": proxy}
}

// withCatalog is a repository whose catalog.json a proxy takes for one.
func withCatalog(t *testing.T) string {
	t.Helper()
	dir := repository(t)
	if err := os.WriteFile(filepath.Join(dir, "catalog.json"), []byte(`"content of catalog.json"`), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Requests that lead out of the directory, or are none, get an error and nothing else.
func TestBadRequests(t *testing.T) {
	for kind, server := range both(t, withCatalog(t)) {
		for _, target := range []string{
			"/../secret.json", "/team/../../secret.json", "/..%2fsecret.json", "/%2e%2e/secret.json", "/%2e%2e%2fsecret.json",
			"/%252e%252e/secret.json", "/..%252fsecret.json", "/..%c0%afsecret.json", "/..\\secret.json", "/..%5csecret.json",
			"/catalog.json%00", "/catalog.json%00.json", "/%00/../catalog.json", "//catalog.json", "///../secret.json", "/./catalog.json",
			"/catalog.json/", "/catalog.json%2f", "/team%2f..%2fcatalog.json", "/catalog.json;x.json/..", "http://x/../secret.json",
			"/out.json", "/abs.json", "/up/secret.json", "/up%2fsecret.json", "/loop.json", "/fifo.json", "/dir.json",
			"*", "/", "", "/%", "/%zz", "/" + strings.Repeat("x", 10_000) + ".json", "/" + strings.Repeat("a/", 2100) + "x.json",
		} {
			resp, body := raw(t, server, "GET "+target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if resp.StatusCode != 404 && resp.StatusCode != 400 || strings.Contains(body, "content of") || len(body) > 100 {
				t.Errorf("%s, %.60q: %s %.60q", kind, target, resp.Status, body)
			}
		}
		for _, method := range []string{"POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND", "X"} {
			resp, body := raw(t, server, method+" /catalog.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if resp.StatusCode != 405 && resp.StatusCode != 400 || strings.Contains(body, "content of") {
				t.Errorf("%s, %s: %s %q", kind, method, resp.Status, body)
			}
			if allow := resp.Header.Get("Allow"); resp.StatusCode == 405 && (allow == "GET, HEAD, PUT") != (kind == "server") {
				t.Errorf("%s, %s: Allow %q", kind, method, allow)
			}
		}
		for _, line := range []string{
			"GET /catalog.json\r\n\r\n", "GET /catalog.json HTTP/9.9\r\nHost: x\r\n\r\n", "GET /catalog.json HTTP/1.1\r\n\r\n",
			"GET /catalog.json HTTP/1.1\r\nHost: x\r\n bad: header\r\n\r\n", "GET /catalog.json HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
			"GET /catalog.json HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "\x00\x01\x02\r\n\r\n",
			"GET /catalog.json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
		} {
			if resp, body := raw(t, server, line); resp.StatusCode < 400 || strings.Contains(body, "content of") {
				t.Errorf("%s, %q: %s %q", kind, line, resp.Status, body)
			}
		}
		if resp, _ := get(t, "GET", server.URL+"/catalog.json"); resp.StatusCode != 200 {
			t.Errorf("%s lives no more: %s", kind, resp.Status)
		}
	}
}

// Ranges are answered as RFC 9110 says, and bad ones with 416 or the whole file.
func TestRanges(t *testing.T) {
	const content = `"content of catalog.json"`
	for kind, server := range both(t, withCatalog(t)) {
		first, _ := get(t, "GET", server.URL+"/catalog.json")
		tag := first.Header.Get("ETag")
		for _, c := range []struct {
			spec, ifRange string
			code          int
			body          string
		}{
			{"bytes=0-0", "", 206, content[:1]},
			{"bytes=3-5", tag, 206, content[3:6]},
			{"bytes=3-5", `"other"`, 200, content},
			{"bytes=3-5", "W/" + tag, 200, content},
			{"bytes=3-5", "garbage", 200, content},
			{"bytes=5-", "", 206, content[5:]},
			{"bytes=-4", "", 206, content[len(content)-4:]},
			{"bytes=-9999", "", 206, content},
			{"bytes=20-9999", "", 206, content[20:]},
			{"bytes=9999-", "", 416, ""},
			{fmt.Sprintf("bytes=%d-", len(content)), "", 416, ""},
			{"bytes=5-3", "", 416, ""},
			{"bytes=-0", "", 206, ""}, // net/http's view of it
			{"bytes=-", "", 416, ""},
			{"bytes=a-b", "", 416, ""},
			{"bytes=99999999999999999999-", "", 416, ""},
			{"bytes=0-99999999999999999999", "", 416, ""},
			{"bytes=-99999999999999999999", "", 416, ""},
			{"bytes=0x1-2", "", 416, ""},
			{"lines=1-2", "", 416, ""},
			{"bytes=0-1,9999-", "", 206, content[:2]},
			{"bytes=0-1,5-6", "", 206, "multipart"},
			{"bytes=" + strings.Repeat("0-,", 1000) + "0-", "", 200, content}, // more than the file
		} {
			header := []string{"Range", c.spec}
			if c.ifRange != "" {
				header = append(header, "If-Range", c.ifRange)
			}
			resp, body := get(t, "GET", server.URL+"/catalog.json", header...)
			multipart := strings.HasPrefix(resp.Header.Get("Content-Type"), "multipart/byteranges")
			if resp.StatusCode != c.code || c.code != 416 && c.body != body && (!multipart || c.body != "multipart") {
				t.Errorf("%s, %.40q, If-Range %q: %s %q", kind, c.spec, c.ifRange, resp.Status, body)
			}
		}
		for name, c := range map[string]struct {
			header []string
			code   int
		}{
			"its tag":       {[]string{"If-None-Match", tag}, 304},
			"one of many":   {[]string{"If-None-Match", `"a", ` + tag}, 304},
			"weak":          {[]string{"If-None-Match", "W/" + tag}, 304},
			"any":           {[]string{"If-None-Match", "*"}, 304},
			"another":       {[]string{"If-None-Match", `"a"`}, 200},
			"garbage":       {[]string{"If-None-Match", `a`}, 200},
			"must match":    {[]string{"If-Match", `"a"`}, 412},
			"does match":    {[]string{"If-Match", tag}, 200},
			"part of a tag": {[]string{"If-None-Match", tag[:len(tag)-2] + `"`}, 200},
		} {
			if resp, body := get(t, "GET", server.URL+"/catalog.json", c.header...); resp.StatusCode != c.code || (body == content) != (c.code == 200) {
				t.Errorf("%s, %s: %s %q", kind, name, resp.Status, body)
			}
		}
	}
}

// A PUT without a length, or with a wrong one, stores a whole chunk or nothing.
func TestBadPuts(t *testing.T) {
	dir := t.TempDir()
	server := both(t, dir)["server"]
	name, content := chunkFile([]byte("some chunk"))
	if err := os.Mkdir(filepath.Join(dir, "default.castr"), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(header, body string) int {
		t.Helper()
		resp, _ := raw(t, server, "PUT /"+name+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+header+"\r\n"+body)
		return resp.StatusCode
	}
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(content), content)
	for what, c := range map[string]struct {
		header, body string
		want         int
	}{
		"no body":             {"", "", 422},
		"no length":           {"", content, 422}, // without one there is no body
		"too short":           {fmt.Sprintf("Content-Length: %d\r\n", len(content)-1), content, 422},
		"a broken chunk":      {"Transfer-Encoding: chunked\r\n", "zz\r\n" + content, 400},
		"two lengths":         {"Content-Length: 1\r\nContent-Length: 2\r\n", content, 400},
		"length and chunks":   {"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", 422},
		"compressed on a way": {"Content-Encoding: gzip\r\nContent-Length: 3\r\n", "\x1f\x8b\x08", 422},
	} {
		if got := put(c.header, c.body); got != c.want {
			t.Errorf("%s: status %d, want %d", what, got, c.want)
		}
	}
	if files, err := filepath.Glob(dir + "/*/*/*"); err != nil || len(files) > 0 {
		t.Errorf("stored: %v, %v", files, err)
	}
	if got := put("Transfer-Encoding: chunked\r\n", chunked); got != 201 {
		t.Errorf("in chunks: status %d", got)
	}
	if resp, body := get(t, "GET", server.URL+"/"+name); resp.StatusCode != 200 || body != content {
		t.Errorf("%s %q", resp.Status, body)
	}
}
