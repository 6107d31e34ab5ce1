package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/andybalholm/brotli"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// publishEdits is publish with a second release whose new files are edits of
// the first one's, and one that is new altogether.
func publishEdits(t testing.TB) *publication {
	t.Helper()
	dir := t.TempDir()
	p := &publication{repo: filepath.Join(dir, "repo")}
	d := newDevice(t)
	for i := range p.releases {
		r := filepath.Join(dir, fmt.Sprintf("release%d", i+1))
		p.releases[i] = r
		buildRelease(t, r, 1)
		if i == 1 {
			for k := 3; k < releaseFiles; k += 10 {
				path := filepath.Join(r, fmt.Sprintf("usr/lib/lib%02d.so", k))
				b, err := os.ReadFile(path)
				must(t, err)
				b = slices.Insert(b, 5000*(k%7+1), []byte("inserted in release 2")...)
				b[70000]++
				must(t, os.WriteFile(path, b, 0o644))
				setTime(t, path)
			}
			writeNoise(t, filepath.Join(r, "usr/lib/new.so"), 99, 20000)
			setTime(t, filepath.Join(r, "usr/lib"))
		}
		d.must("push", "rootfs:"+r, p.ref(i+1))
	}
	return p
}

// tree is the directory of an image of the root.
func (d *device) tree(image string) string {
	d.t.Helper()
	dir, err := filepath.EvalSymlinks(d.path(image))
	must(d.t, err)
	return dir
}

// deltaBlob is the path of the delta of release 2.
func (p *publication) deltaBlob(t testing.TB) string {
	t.Helper()
	line := newDevice(t).must("delta", "list", p.ref(2)).stdout
	_, hex, ok := strings.Cut(strings.Fields(line)[2], ":")
	if !ok {
		t.Fatalf("delta list prints %q", line)
	}
	return filepath.Join(p.repo, "app/blobs/sha256", hex)
}

// TestPullByDelta counts in the log of a real web server that the update takes
// three requests and the bytes that the plan says.
func TestPullByDelta(t *testing.T) {
	t.Parallel()
	p := publishEdits(t)
	nginx := testutil.StartNginx(t, p.repo)
	one, two := nginx.URL+"/app:1", nginx.URL+"/app:2"
	d := newDevice(t)
	d.pull(one)
	plan := d.plan(two)
	nginx.Reset()
	got := d.pull(two)
	requests, bytes := nginx.Count()
	if requests != 3 || got.Requests != 3 || plan.Total.Requests != 3 {
		t.Errorf("%d requests, pull says %d and plan %d, want 3", requests, got.Requests, plan.Total.Requests)
	}
	if bytes != got.Bytes || plan.Total.WireBytes != bytes || bytes > 40<<10 {
		t.Errorf("%d bytes, pull says %d and plan %d", bytes, got.Bytes, plan.Total.WireBytes)
	}
	testutil.CompareTrees(t, p.releases[1], d.tree("app/2"))
	if got := d.pull(two, "--delta", "never", "rootfs:"+filepath.Join(t.TempDir(), "x")); got.Requests != 1 {
		t.Errorf("a tree that is there takes %d requests", got.Requests)
	}
	d = newDevice(t)
	d.pull(one)
	if got := d.pull(two, "--delta=never"); got.Bytes < 300<<10 {
		t.Errorf("without deltas it takes %d bytes", got.Bytes)
	}
	d.fails(exitUsage, []string{"--delta"}, "pull", two, "--delta=maybe")
}

// A device that has the contents and not the image that the delta begins at uses
// it all the same.
func TestDeltaFromAnotherBuild(t *testing.T) {
	t.Parallel()
	p := publishEdits(t)
	d := newDevice(t)
	other := t.TempDir()
	for i, name := range []string{"lib03.so", "lib13.so", "lib23.so", "lib33.so", "lib43.so"} {
		b, err := os.ReadFile(filepath.Join(p.releases[0], "usr/lib", name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(other, strings.Repeat("x", i+1)), b, 0o600))
	}
	must(t, os.CopyFS(filepath.Join(other, "rest"), os.DirFS(filepath.Join(p.releases[1], "usr/lib"))))
	for k := 3; k < releaseFiles; k += 10 {
		must(t, os.Remove(filepath.Join(other, "rest", fmt.Sprintf("lib%02d.so", k))))
	}
	var made int
	for _, s := range d.plan(p.ref(2), "--seed", other).Sources {
		if s.Source == "delta" {
			made = s.Contents
		}
	}
	if made != 5 {
		t.Errorf("the delta makes %d contents, want those 5 whose bases are there", made)
	}
	d.pull(p.ref(2), "--seed", other)
	testutil.CompareTrees(t, p.releases[1], d.tree("app/2"))
}

// Whatever is wrong with the delta or with a base costs the chunks of what it
// touches, or is refused where there may be no chunks.
func TestBadDelta(t *testing.T) {
	t.Parallel()
	p := publishEdits(t)
	blob := p.deltaBlob(t)
	good, err := os.ReadFile(blob)
	must(t, err)
	head := 12 + int(binary.LittleEndian.Uint32(good[8:]))
	swapped := filepath.Join(t.TempDir(), "swapped") // from the other release to this one
	newDevice(t).must("delta", "make", "-o", swapped, p.ref(2), p.ref(1))
	other, err := os.ReadFile(swapped)
	must(t, err)
	d := newDevice(t)
	d.pull(p.ref(1))
	chunks := d.pull("--delta=never", p.ref(2)).Bytes

	srv := httptest.NewServer(http.FileServer(http.Dir(p.repo)))
	defer srv.Close()
	packed := func(b []byte) []byte {
		var out bytes.Buffer
		w := brotli.NewWriterOptions(&out, brotli.WriterOptions{Quality: 2, LGWin: 16})
		_, err := w.Write(b)
		must(t, err)
		must(t, w.Close())
		return out.Bytes()
	}
	zeros := packed(make([]byte, 64<<20))
	headOf := func(b []byte) []byte {
		return append(binary.LittleEndian.AppendUint32([]byte("ov2-dlt\x01"), uint32(len(b))), b...)
	}
	var bombs []byte // a group whose streams expand to 64 MB each
	for range 5 {
		bombs = binary.AppendUvarint(bombs, uint64(len(zeros)))
	}
	bombs = append(bombs, bytes.Repeat(zeros, 5)...)
	bytesAt := func(at int, with ...byte) []byte {
		b := slices.Clone(good)
		copy(b[at:], with)
		return b
	}
	base := func(change func(path string)) func(d *device) {
		return func(d *device) {
			path := filepath.Join(d.tree("app/1"), "usr/lib/lib13.so")
			change(path)
			if _, err := os.Stat(path); err == nil {
				setTime(t, path)
			}
		}
	}
	for name, tt := range map[string]struct {
		blob  []byte // nil for the good one
		spoil func(*device)
		lost  bool // one content alone comes from chunks
		luck  bool // what is hit may not be needed: then all is well
		code  int  // of --delta=only; exitCorrupt if it is 0
		http  bool // over HTTP
	}{
		"empty":                     {blob: []byte{}},
		"cut in the head":           {blob: good[:head/2]},
		"cut behind the head":       {blob: good[:head]},
		"cut":                       {blob: good[:len(good)-2000]},
		"empty, HTTP":               {blob: []byte{}, http: true},
		"cut in the head, HTTP":     {blob: good[:head/2], http: true},
		"cut behind the head, HTTP": {blob: good[:head], http: true},
		"cut, HTTP":                 {blob: good[:len(good)-2000], http: true},
		"one byte short":            {blob: good[:len(good)-1], luck: true},
		"flipped in the head":       {blob: bytesAt(100, good[100]^0x10), luck: true}, // the table alone, which is there whole too
		"flipped in the middle":     {blob: bytesAt(len(good)/2, good[len(good)/2]^0x10), luck: true},
		"flipped at the end":        {blob: bytesAt(len(good)-3000, good[len(good)-3000]^0x10), luck: true},
		"another magic":             {blob: bytesAt(7, 2)},
		"length of the head lies":   {blob: bytesAt(8, 0xff, 0xff, 0xff, 0xff)},
		"head too short":            {blob: bytesAt(8, 5, 0, 0, 0)},
		"lengths of a group lie":    {blob: bytesAt(head, 0xff, 0xff, 0xff, 0xff, 0x0f)},
		"swapped":                   {blob: other},
		"body of another":           {blob: append(slices.Clone(good[:head]), other[12+binary.LittleEndian.Uint32(other[8:]):]...)},
		"garbage":                   {blob: bytes.Repeat([]byte("garbage"), len(good)/7)},
		"bomb for a head":           {blob: headOf(zeros)},
		"bombs for a body":          {blob: append(slices.Clone(good[:head]), bombs...)},
		"changed base": {lost: true, spoil: base(func(path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("changed"), 50000)
			must(t, err)
			must(t, f.Close())
		})},
		"base cut short": {lost: true, code: exitNotFound, spoil: base(func(path string) { must(t, os.Truncate(path, 100)) })},
		"base gone":      {lost: true, code: exitNotFound, spoil: base(func(path string) { must(t, os.Remove(path)) })},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { must(t, os.WriteFile(blob, good, 0o644)) }()
			if tt.blob != nil {
				must(t, os.WriteFile(blob, tt.blob, 0o644))
			}
			d := newDevice(t)
			d.pull(p.ref(1))
			if tt.spoil != nil {
				tt.spoil(d)
			}
			two := p.ref(2)
			if tt.http {
				two = srv.URL + "/app:2"
			}
			switch r := d.run("pull", two, "--delta=only"); {
			case r.code == cmp.Or(tt.code, exitCorrupt) && len(r.errorLine(t)) > 0:
			case r.code == exitDone && tt.luck:
				testutil.CompareTrees(t, p.releases[1], d.tree("app/2"))
			default:
				t.Errorf("--delta=only exits with %d:\n%s", r.code, r.stderr)
			}
			got := d.pull(two)
			testutil.CompareTrees(t, p.releases[1], d.tree("app/2"))
			if got.Bytes > chunks+int64(len(good))+16<<10 {
				t.Errorf("it takes %d bytes, without deltas %d", got.Bytes, chunks)
			}
			if tt.lost && got.Bytes > chunks/2 {
				t.Errorf("for one content it takes %d bytes, for all of them %d", got.Bytes, chunks)
			}
		})
	}
	d = newDevice(t)
	d.fails(exitNotFound, []string{"no delta"}, "pull", p.ref(2), "--delta=only")
	d.pull(p.ref(1))
	must(t, os.Remove(blob))
	d.fails(exitNotFound, []string{"no delta"}, "pull", p.ref(2), "--delta=only")
	d.pull(p.ref(2))
	testutil.CompareTrees(t, p.releases[1], d.tree("app/2"))
}

// cutter serves a repository and ends responses after some bytes of a delta.
type cutter struct {
	t     testing.TB
	next  http.Handler
	after atomic.Int64 // bytes of partial responses before they are cut; 0 is never
	cuts  atomic.Int64 // how many are cut
	sent  atomic.Int64
	asked atomic.Int64 // requests for parts behind the beginning
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	after := c.after.Load()
	if h := r.Header.Get("Range"); h != "" && !strings.HasPrefix(h, "bytes=0-") {
		c.asked.Add(1)
	}
	if r.Header.Get("Range") == "" || strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") || after == 0 || c.cuts.Add(-1) < 0 {
		rec := &counting{ResponseWriter: w}
		c.next.ServeHTTP(rec, r)
		if r.Header.Get("Range") != "" {
			c.sent.Add(rec.n)
		}
		return
	}
	rec := httptest.NewRecorder()
	c.next.ServeHTTP(rec, r)
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	n, _ := w.Write(rec.Body.Bytes()[:after])
	c.sent.Add(int64(n))
	must(c.t, http.NewResponseController(w).Flush())
	conn, _, err := http.NewResponseController(w).Hijack()
	must(c.t, err)
	must(c.t, conn.Close())
}

type counting struct {
	http.ResponseWriter
	n int64
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

// A delta that is cut goes on where it was: at once, and in the next pull.
func TestCutDelta(t *testing.T) {
	t.Parallel()
	p := publishEdits(t)
	st, err := os.Stat(p.deltaBlob(t))
	must(t, err)
	c := &cutter{t: t, next: http.FileServer(http.Dir(p.repo))}
	srv := httptest.NewServer(c)
	defer srv.Close()
	for name, retry := range map[string]string{"at once": "2", "in the next pull": "0"} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.pull(srv.URL + "/app:1")
			c.after.Store(5000)
			c.cuts.Store(1)
			c.sent.Store(0)
			c.asked.Store(0)
			if retry == "0" {
				d.fails(exitNetwork, nil, "pull", "--retry", retry, srv.URL+"/app:2")
			}
			d.pull("--retry", retry, srv.URL+"/app:2")
			if got := c.sent.Load(); got != st.Size() {
				t.Errorf("of a delta of %d bytes %d were sent", st.Size(), got)
			}
			if got := c.asked.Load(); got != 2 { // the one that was cut, and the one that goes on
				t.Errorf("the body took %d requests, want 2", got)
			}
			testutil.CompareTrees(t, p.releases[1], d.tree("app/2"))
		})
	}
}

// A delta in a file makes the image without a network, and one from nothing
// makes it on an empty device.
func TestDeltaFiles(t *testing.T) {
	t.Parallel()
	p := publishEdits(t)
	d := newDevice(t)
	dir := t.TempDir()
	update, full := filepath.Join(dir, "update"), filepath.Join(dir, "full")
	d.must("delta", "make", "-o", update, p.ref(1), p.ref(2))
	d.must("delta", "make", "-o", full, "--full", p.ref(2))
	d.fails(exitNotFound, nil, "delta", "apply", update, "rootfs:"+filepath.Join(dir, "none"))
	d.must("delta", "apply", full, "rootfs:"+filepath.Join(dir, "a"))
	testutil.CompareTrees(t, p.releases[1], filepath.Join(dir, "a"))
	d.pull(p.ref(1))
	must(t, os.Rename(p.repo, p.repo+".away"))
	d.must("delta", "apply", update, "rootfs:"+filepath.Join(dir, "b"))
	testutil.CompareTrees(t, p.releases[1], filepath.Join(dir, "b"))
	must(t, os.Rename(p.repo+".away", p.repo))

	before := d.must("delta", "list", p.ref(2)).stdout
	d.must("delta", "make", "--full", p.ref(2))
	after := d.must("delta", "list", p.ref(2)).stdout
	if !strings.HasPrefix(after, before) || !strings.Contains(after, "from nothing") {
		t.Errorf("listed before: %s\nafter: %s", before, after)
	}
	e := newDevice(t)
	if got := e.pull(p.ref(2)); got.Requests != 3 {
		t.Errorf("the first install takes %d requests, want 3", got.Requests)
	}
	testutil.CompareTrees(t, p.releases[1], e.tree("app/2"))
	d.must("push", "rootfs:"+p.releases[1], p.ref(2), "--deltas=0")
	if again := d.must("delta", "list", p.ref(2)).stdout; again != after {
		t.Errorf("a second push of the same image lists %s", again)
	}
	d.fails(exitUsage, []string{"--full"}, "delta", "make", p.ref(2))
	d.fails(exitUsage, nil, "delta")
	d.fails(exitCorrupt, nil, "delta", "apply", filepath.Join(p.repo, "app/2.json"), "rootfs:"+filepath.Join(dir, "c"))
	must(t, os.WriteFile(full, []byte("ov2-dlt\x01"), 0o644))
	d.fails(exitCorrupt, []string{"it ended too early"}, "delta", "apply", full, "rootfs:"+filepath.Join(dir, "c"))
}

// A device that is several releases behind applies one delta after the other,
// where none leads to the last one at once.
func TestChain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := &publication{repo: filepath.Join(dir, "repo")}
	d := newDevice(t)
	tree := filepath.Join(dir, "tree")
	buildRelease(t, tree, 1)
	var last string
	for i := 1; i <= 4; i++ {
		if i > 1 {
			time.Sleep(1100 * time.Millisecond) // which push was the last one is told by the second
			for k := 3; k < releaseFiles; k += 10 {
				path := filepath.Join(tree, fmt.Sprintf("usr/lib/lib%02d.so", k))
				b, err := os.ReadFile(path)
				must(t, err)
				if k < 20 || i == 3 { // some change in every release, some in one
					b = slices.Insert(b, 5000*i, fmt.Appendf(nil, "inserted in release %d", i)...)
				}
				must(t, os.WriteFile(path, b, 0o644))
				setTime(t, path)
			}
			writeNoise(t, filepath.Join(tree, fmt.Sprintf("usr/lib/new%d.so", i)), uint64(90+i), 5000)
			setTime(t, filepath.Join(tree, "usr/lib"))
		}
		d.must("push", "--deltas=1", "rootfs:"+tree, p.ref(i))
		last = p.ref(i)
	}
	d.must("rm", p.ref(3)) // its links stay for as long as devices can begin at them
	d.must("gc", p.repo, "--grace", "0")
	nginx := testutil.StartNginx(t, p.repo)
	url := func(i int) string { return fmt.Sprintf("%s/app:%d", nginx.URL, i) }
	d.pull(url(1))
	plan := d.plan(url(4))
	nginx.Reset()
	got := d.pull(url(4))
	requests, bytes := nginx.Count()
	if requests != 7 || got.Requests != 7 || plan.Total.Requests != 7 { // TAG.json, and twice for each delta
		t.Errorf("%d requests, pull says %d and plan %d, want 7", requests, got.Requests, plan.Total.Requests)
	}
	if bytes != got.Bytes || plan.Total.WireBytes != bytes || bytes > 60<<10 {
		t.Errorf("%d bytes, pull says %d and plan %d", bytes, got.Bytes, plan.Total.WireBytes)
	}
	testutil.CompareTrees(t, tree, d.tree("app/4"))

	// A link that is damaged costs the chunks of what it would have made.
	blobs, err := filepath.Glob(filepath.Join(p.repo, "app/blobs/sha256/*"))
	must(t, err)
	d = newDevice(t)
	d.pull(p.ref(1))
	list := newDevice(t).must("delta", "list", p.ref(2)).stdout
	for _, path := range blobs {
		if strings.Contains(list, filepath.Base(path)) {
			b, err := os.ReadFile(path)
			must(t, err)
			clear(b[len(b)-3000 : len(b)-2000])
			must(t, os.WriteFile(path, b, 0o644))
		}
	}
	d.pull(last)
	testutil.CompareTrees(t, tree, d.tree("app/4"))
	// The same tag pushed again keeps its links.
	before, err := os.ReadFile(filepath.Join(p.repo, "app/4.json"))
	must(t, err)
	d.must("push", "--deltas=1", "rootfs:"+tree, last)
	after, err := os.ReadFile(filepath.Join(p.repo, "app/4.json"))
	must(t, err)
	const link = "io.github.ociv2-sync.delta.to"
	if n := strings.Count(string(before), link); n != 2 || strings.Count(string(after), link) != n {
		t.Errorf("%d links before, then\n%s", n, after)
	}
}
