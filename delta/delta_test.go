package delta

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/ociv2-sync/ociv2-sync/internal/deflate"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// file is a name and a content of a flat test tree.
type file struct{ name, content string }

func newTree(t testing.TB, files ...file) *Tree {
	t.Helper()
	nodes := []toc.Node{{Mode: toc.TypeDir | 0o755, Link: -1}}
	slices.SortFunc(files, func(a, b file) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	for _, f := range files {
		nodes = append(nodes, toc.Node{
			Name: f.name, Depth: 1, Mode: toc.TypeRegular | 0o644, Link: -1,
			Size: int64(len(f.content)), Digest: sha256.Sum256([]byte(f.content)),
		})
	}
	tr := &Tree{TOC: &toc.TOC{Nodes: nodes}, Read: func(_ context.Context, i int, offset, size int64) ([]byte, error) {
		return []byte(files[i-1].content[offset:][:size]), nil
	}}
	var err error
	if tr.Canonical, err = toc.Marshal(tr.TOC); err != nil {
		t.Fatal(err)
	}
	return tr
}

func makeDelta(t testing.TB, from, to *Tree, opts MakeOptions) ([]byte, *Made) {
	t.Helper()
	spool, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	var b bytes.Buffer
	made, err := Make(t.Context(), &b, spool, from, to, opts)
	if err != nil {
		t.Fatal(err)
	}
	if made.Size != int64(b.Len()) {
		t.Errorf("made %d bytes, said %d", b.Len(), made.Size)
	}
	return b.Bytes(), made
}

// device is what a delta is applied on.
type device struct {
	have map[Prefix]string
	got  map[Digest]string // complete contents
	errs []error           // of contents that were not made
}

func newDevice(files ...file) *device {
	d := &device{have: make(map[Prefix]string), got: make(map[Digest]string)}
	for _, f := range files {
		sum := sha256.Sum256([]byte(f.content))
		d.have[Prefix(sum[:])] = f.content
	}
	return d
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

type sink struct {
	bytes.Buffer
	d *device
}

func (s *sink) Finish(err error) error {
	if err != nil {
		s.d.errs = append(s.d.errs, err)
		return nil
	}
	s.d.got[sha256.Sum256(s.Bytes())] = s.String()
	return nil
}

// apply reads a delta whose new table of contents is canonical if it is not in
// the delta's reach.
func (d *device) apply(ctx context.Context, b, oldTOC []byte) error {
	r := bytes.NewReader(b)
	h, err := ReadHead(r, 1<<20)
	if err != nil {
		return err
	}
	canonical, err := h.PatchTOC(oldTOC)
	if err != nil {
		return err
	}
	t, err := toc.Parse(canonical)
	if err != nil {
		return err
	}
	return Apply(ctx, r, Job{
		Head: h, Contents: contents(t.Nodes),
		Base: func(_ context.Context, i int) (BaseReader, error) {
			c, ok := d.have[h.Bases[i].Prefix]
			if !ok {
				return nil, errors.New("not here")
			}
			return memory{bytes.NewReader([]byte(c))}, nil
		},
		Output: func(context.Context, int) (Output, error) { return &sink{d: d}, nil },
	})
}

// contents is the content table of a tree.
func contents(nodes []toc.Node) []Content {
	var list []Content
	for _, e := range entries(nodes) {
		list = append(list, e.Content)
	}
	return list
}

// noise returns n bytes that do not compress.
func noise(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// edit returns s with a few bytes changed, inserted and taken out.
func edit(seed uint64, s string) string {
	r := rand.New(rand.NewPCG(seed, 2))
	b := []byte(s)
	for range 20 {
		at := r.IntN(len(b))
		switch r.IntN(3) {
		case 0:
			b[at]++
		case 1:
			b = slices.Insert(b, at, []byte("inserted")...)
		default:
			b = slices.Delete(b, at, min(len(b), at+r.IntN(200)))
		}
	}
	return string(b)
}

func sample() (from, to []file) {
	a, b, c := noise(1, 50000), noise(2, 30000), noise(3, 200000)
	from = []file{{"a", a}, {"libx.so.1.2.3", b}, {"c", c}, {"same", "same"}}
	to = []file{{"a", edit(1, a)}, {"libx.so.1.2.10", edit(2, b)}, {"other", edit(3, c)}, {"new", noise(4, 1000)}, {"same", "same"}}
	return from, to
}

func TestMakeAndApply(t *testing.T) {
	old, files := sample()
	from, to := newTree(t, old...), newTree(t, files...)
	for _, memory := range []int64{0, 500 << 10} { // the latter matches in pieces
		b, made := makeDelta(t, from, to, MakeOptions{Memory: memory})
		if made.Contents != 4 || made.Based != 3 {
			t.Errorf("made %+v", *made)
		}
		if made.Size > 1000+3*60*10+2000 {
			t.Errorf("it takes %d bytes", made.Size)
		}
		d := newDevice(old...)
		if err := d.apply(t.Context(), b, from.Canonical); err != nil || len(d.errs) > 0 {
			t.Fatal(err, d.errs)
		}
		for _, f := range files {
			if f.name != "same" && d.got[sha256.Sum256([]byte(f.content))] != f.content {
				t.Errorf("%s was not made", f.name)
			}
		}
	}
}

func TestFromNothing(t *testing.T) {
	_, files := sample()
	to := newTree(t, files...)
	b, made := makeDelta(t, nil, to, MakeOptions{Quality: 5})
	if made.Contents != 5 || made.Based != 0 {
		t.Errorf("made %+v", *made)
	}
	d := newDevice()
	if err := d.apply(t.Context(), b, nil); err != nil || len(d.errs) > 0 || len(d.got) != 5 {
		t.Fatalf("%v, %v, %d contents", err, d.errs, len(d.got))
	}
}

// gzipped compresses as the encoder does, with a name in the header.
func gzipped(e deflate.Encoder, data string) string {
	header := "\x1f\x8b\x08\x08\x00\x00\x00\x00\x02\x03name\x00"
	var b bytes.Buffer
	var f deflate.FileWriter
	_ = f.Reset(&b, []byte(header), e) // b takes everything
	_, _ = f.Write([]byte(data))
	_ = f.Close()
	return b.String()
}

// Gzip files are compared by what is in them, and made again bit for bit.
func TestGzip(t *testing.T) {
	words := strings.Fields("the quick brown fox jumps over a lazy dog while nobody looks")
	r := rand.New(rand.NewPCG(1, 1))
	var text strings.Builder
	for range 20000 {
		text.WriteString(words[r.IntN(len(words))] + " ")
	}
	list := []deflate.Encoder{0x19, 0x29, 0x39, 0x11} // docs/format/delta.md, section 5
	changed := edit(1, text.String())
	var foreign bytes.Buffer // by an encoder that is not known
	w, err := gzip.NewWriterLevel(&foreign, 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(edit(2, text.String()))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	old := []file{{"a.gz", gzipped(list[0], text.String())}, {"b.gz", text.String()}, {"c.gz", gzipped(list[0], text.String()+"x")}}
	files := []file{{"a.gz", gzipped(list[1], changed)}, {"b.gz", gzipped(list[3], text.String()+"more")}, {"c.gz", foreign.String()}}
	from, to := newTree(t, old...), newTree(t, files...)
	b, made := makeDelta(t, from, to, MakeOptions{})
	if limit := int64(foreign.Len() + 3000); made.Size > limit {
		t.Errorf("it takes %d bytes, at most %d are expected", made.Size, limit)
	}
	d := newDevice(old...)
	if err := d.apply(t.Context(), b, from.Canonical); err != nil || len(d.errs) > 0 || len(d.got) != 3 {
		t.Fatal(err, d.errs, len(d.got))
	}
	sum := sha256.Sum256([]byte(old[0].content))
	d = newDevice(old...)
	d.have[Prefix(sum[:])] = noise(3, len(old[0].content))
	if err := d.apply(t.Context(), b, from.Canonical); err != nil || len(d.got) != 2 || !errors.Is(d.errs[0], ErrBase) {
		t.Errorf("with a base that is no gzip file: %v, %v, %d contents", err, d.errs, len(d.got))
	}
}

// jar is a zip file of some text; by Go, with the lengths behind the data.
func jar(t testing.TB, members ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, m := range members {
		w, err := z.Create(fmt.Sprintf("class%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Zip files are compared by what is in their members, and made again bit for bit.
func TestZip(t *testing.T) {
	if !deflate.Encoder(0x45).Valid() {
		t.Skip("this Go compresses otherwise than deltas know")
	}
	var text [3]string
	for i := range text {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		var b strings.Builder
		for range 10000 {
			fmt.Fprintf(&b, "%d ", r.IntN(5000))
		}
		text[i] = b.String()
	}
	old := []file{{"a-1.0.jar", jar(t, text[0], text[1], text[2])}, {"b.jar", jar(t, text[0], "")}}
	files := []file{{"a-1.1.jar", jar(t, "new", edit(1, text[0]), text[1], edit(2, text[2]))}, {"b.jar", jar(t, edit(3, text[0]), "")}, {"plain", "PK\x05\x06 or so"}}
	from, to := newTree(t, old...), newTree(t, files...)
	b, made := makeDelta(t, from, to, MakeOptions{})
	if made.Based != 2 || made.Size > 4000 {
		t.Errorf("made %+v", *made)
	}
	d := newDevice(old...)
	if err := d.apply(t.Context(), b, from.Canonical); err != nil || len(d.errs) > 0 || len(d.got) != 3 {
		t.Fatal(err, d.errs, len(d.got))
	}
	sum := sha256.Sum256([]byte(old[1].content))
	for what, content := range map[string]string{
		"no zip file":        noise(3, len(old[1].content)),
		"other members":      jar(t, edit(4, text[0]), ""),
		"cut":                old[1].content[:1000],
		"a shorter zip file": jar(t, "short"),
	} {
		d = newDevice(old...)
		d.have[Prefix(sum[:])] = content
		err := d.apply(t.Context(), b, from.Canonical)
		if err != nil || len(d.got) != 2 || len(d.errs) != 1 || !errors.Is(d.errs[0], ErrBase) && !errors.Is(d.errs[0], ErrContent) {
			t.Errorf("%s as the base: %v, %v, %d contents", what, err, d.errs, len(d.got))
		}
	}
}

// A record with a method, a filter or an encoder of a later version is passed over,
// and those behind it are made.
func TestUnknownMethods(t *testing.T) {
	old, files := sample()
	from, to := newTree(t, old...), newTree(t, files...)
	b, _ := makeDelta(t, from, to, MakeOptions{Quality: 5})
	good, err := ReadHead(bytes.NewReader(b), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	table := contents(to.TOC.Nodes)
	for what, change := range map[string]func(*Record, *Base){
		"method":  func(r *Record, _ *Base) { r.method, r.params = methodZip+1, []byte("anything") },
		"encoder": func(r *Record, _ *Base) { r.method, r.params = methodGzip, []byte{0x7f} },
		"zip":     func(r *Record, _ *Base) { r.method, r.params = methodZip, []byte{0x26, 0} },
		"nothing": func(r *Record, _ *Base) { r.method, r.params = methodZip, nil },
		"filter":  func(_ *Record, b *Base) { b.filter = filters },
	} {
		h := *good
		h.Records, h.Bases = slices.Clone(good.Records), slices.Clone(good.Bases)
		r := &h.Records[0] // its base is that of no other record
		size := table[r.Target].Size
		change(r, &h.Bases[r.Bases[0]])
		if r.method != methodPlain {
			r.size = size
		}
		head, err := h.encode()
		if err != nil {
			t.Fatal(err)
		}
		d := newDevice(old...)
		if err := d.apply(t.Context(), append(head, b[good.Size:]...), from.Canonical); err != nil || len(d.errs) > 0 || len(d.got) != 3 {
			t.Errorf("%s: %v, %v, %d contents", what, err, d.errs, len(d.got))
		}
		if h.Usable(0) || !h.Usable(1) {
			t.Errorf("%s: record 0 is usable: %v, record 1: %v", what, h.Usable(0), h.Usable(1))
		}
	}
}

// What is wrong with one base costs the contents made of it, and no others.
func TestBadBases(t *testing.T) {
	old, files := sample()
	from, to := newTree(t, old...), newTree(t, files...)
	b, _ := makeDelta(t, from, to, MakeOptions{})
	sum := sha256.Sum256([]byte(old[0].content))
	key := Prefix(sum[:])
	for what, base := range map[string]struct {
		content string
		err     error
	}{
		"other bytes":  {noise(9, 50000), ErrContent},
		"too short":    {old[0].content[:100], ErrBase},
		"not there":    {"", ErrBase},
		"one bit more": {"\x01" + old[0].content[1:], ErrContent},
	} {
		d := newDevice(old...)
		d.have[key] = base.content
		if base.content == "" {
			delete(d.have, key)
		}
		if err := d.apply(t.Context(), b, from.Canonical); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if len(d.got) != 3 || len(d.errs) != 1 || !errors.Is(d.errs[0], base.err) {
			t.Errorf("%s: %d contents were made, errors %v", what, len(d.got), d.errs)
		}
	}
}

// A content that comes complete out of a damaged delta is right all the same.
func TestDamage(t *testing.T) {
	old, files := sample()
	from, to := newTree(t, old...), newTree(t, files...)
	b, _ := makeDelta(t, from, to, MakeOptions{})
	good := make(map[Digest]bool)
	for _, f := range files {
		good[sha256.Sum256([]byte(f.content))] = true
	}
	try := func(what string, b []byte) {
		d := newDevice(old...)
		err := d.apply(t.Context(), b, from.Canonical)
		if err == nil && len(d.errs) == 0 && len(d.got) < 4 {
			t.Errorf("%s: something is missing and nothing is said", what)
		}
		for sum := range d.got {
			if !good[sum] {
				t.Errorf("%s: a wrong content was called complete", what)
			}
		}
	}
	for n := range len(b) {
		if n%7 == 0 || n < 300 {
			try(fmt.Sprintf("cut at %d", n), b[:n])
			c := bytes.Clone(b)
			c[n] ^= 1 << (n % 8)
			try(fmt.Sprintf("bit of byte %d", n), c)
		}
	}
	if err := newDevice(old...).apply(t.Context(), append(bytes.Clone(b), 0, 0, 0, 0, 1, 0), from.Canonical); err == nil {
		t.Error("bytes after the end are accepted")
	}
	if err := newDevice(old...).apply(t.Context(), b, to.Canonical); !errors.Is(err, ErrBase) {
		t.Errorf("another table of contents: %v", err)
	}
}

// The error of a broken transfer is not taken for a broken delta.
func TestReadError(t *testing.T) {
	old, files := sample()
	from, to := newTree(t, old...), newTree(t, files...)
	b, _ := makeDelta(t, from, to, MakeOptions{})
	broken := errors.New("broken")
	h, err := ReadHead(bytes.NewReader(b), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	r := io.MultiReader(bytes.NewReader(b[h.Size:len(b)-100]), errReader{broken})
	err = Apply(t.Context(), r, Job{
		Head: h, Contents: contents(to.TOC.Nodes),
		Output: func(context.Context, int) (Output, error) { return nil, nil },
	})
	if !errors.Is(err, broken) || errors.Is(err, ErrMalformed) {
		t.Errorf("error %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// Whatever old and new are, the instructions make the one out of the other.
func TestInstructionsMakeTheContent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bytesOf := rapid.SliceOfN(rapid.SampledFrom([]byte("aab\x00\xff")), 0, 400)
		old := bytesOf.Draw(rt, "old")
		b := bytesOf.Draw(rt, "new")
		if len(old) > 0 && len(b) > 0 {
			at := rapid.IntRange(0, len(old)-1).Draw(rt, "from")
			b = append(append(b, old[at:]...), b[:len(b)/2]...)
		}
		if got := replay(rt, old, b, 1<<20); !bytes.Equal(got, b) {
			rt.Fatalf("made %q, not %q", got, b)
		}
	})
	long := []byte(noise(5, 300<<10))
	b := []byte(edit(6, string(long)))
	if got := replay(t, long, b, 1<<20); !bytes.Equal(got, b) {
		t.Error("in pieces another content is made")
	}
}

func replay(t rapid.TB, old, b []byte, memory int64) []byte {
	var s script
	s.build(old, b, memory)
	var in [streams]source
	for i := range in {
		in[i] = bytes.NewReader(s[i])
	}
	var out bytes.Buffer
	p := player{in: &in, buf: make([]byte, 100)}
	soft, err := p.play(int64(len(b)), bytes.NewReader(old), &out)
	if err := errors.Join(soft, err); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func FuzzApply(f *testing.F) {
	from := newTree(f, file{"f", "hello world\n"}, file{"g", noise(1, 300)})
	to := newTree(f, file{"f", "hello, world\n"}, file{"z.gz", gzipped(deflate.Encoder(0x19), "hello")}, file{"g", edit(1, noise(1, 300))}, file{"h", "new"})
	b, _ := makeDelta(f, from, to, MakeOptions{})
	f.Add(b)
	jars := newTree(f, file{"a.jar", jar(f, "hello", strings.Repeat("world", 20))})
	b, _ = makeDelta(f, from, jars, MakeOptions{})
	f.Add(b)
	full, _ := makeDelta(f, nil, to, MakeOptions{})
	f.Add(full)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDevice(file{"f", "hello world\n"}, file{"g", noise(1, 300)})
		_ = d.apply(t.Context(), b, from.Canonical) // must only not panic, hang or lie
		for sum, c := range d.got {
			if sha256.Sum256([]byte(c)) != sum {
				t.Error("a content with another digest was called complete")
			}
		}
	})
}

// FuzzBody gives the body alone to Apply: a head is too hard to hit upon.
func FuzzBody(f *testing.F) {
	old, files := []file{{"f", noise(1, 900)}}, []file{{"f", edit(1, noise(1, 900))}, {"g.gz", gzipped(0x16, noise(1, 500))}, {"h", "new"}}
	from, to := newTree(f, old...), newTree(f, files...)
	b, _ := makeDelta(f, from, to, MakeOptions{Quality: 2}) // each of the fuzzer's processes does this
	h, err := ReadHead(bytes.NewReader(b), 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[h.Size:])
	f.Fuzz(func(t *testing.T, body []byte) {
		_ = Apply(t.Context(), bytes.NewReader(body), Job{
			Head: h, Contents: contents(to.TOC.Nodes),
			Base: func(context.Context, int) (BaseReader, error) {
				return memory{bytes.NewReader([]byte(old[0].content))}, nil
			},
			Output: func(context.Context, int) (Output, error) { return &sink{d: newDevice()}, nil },
		})
	})
}
