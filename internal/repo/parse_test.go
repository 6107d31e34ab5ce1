package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

func testIndex() (*caibx.Index, []int64) {
	x := &caibx.Index{FeatureFlags: caibx.FlagSHA512_256, Params: chunk.DefaultParams()}
	for i, id := range []byte{1, 2, 1, 3} {
		x.Chunks = append(x.Chunks, caibx.Chunk{End: uint64(i+1) * 20000, ID: chunk.ID{id}})
	}
	return x, []int64{300, 7, 300, 20001}
}

func TestSizes(t *testing.T) {
	x, want := testIndex()
	b, err := encodeSizes(x, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeSizes(b, x)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
	fewer := *x
	fewer.Chunks = x.Chunks[:3]
	if _, err := decodeSizes(b, &fewer); !errors.Is(err, ErrMalformed) {
		t.Errorf("too many entries: %v", err)
	}
	more := *x
	more.Chunks = append(slices.Clone(x.Chunks), caibx.Chunk{End: 90000, ID: chunk.ID{9}})
	if _, err := decodeSizes(b, &more); !errors.Is(err, ErrMalformed) {
		t.Errorf("too few entries: %v", err)
	}
	if _, err := encodeSizes(x, []int64{300, 7, 301, 20001}); !errors.Is(err, ErrMalformed) {
		t.Errorf("two sizes of one chunk: %v", err)
	}
}

func FuzzDecodeSizes(f *testing.F) {
	x, sizes := testIndex()
	b, err := encodeSizes(x, sizes)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeSizes(b, x)
		if err != nil {
			return
		}
		again, err := encodeSizes(x, got)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := decodeSizes(again, x); err != nil || !slices.Equal(n, got) {
			t.Fatalf("%v, %v, want %v", n, err, got)
		}
	})
}

// spansOf returns the spans of the test index and of another stream, and a manifest
// for them.
func spansOf(t testing.TB) ([]byte, *translate.Manifest) {
	t.Helper()
	x, sizes := testIndex()
	b, err := encodeSpans(Chunks{x, sizes}, &Chunks{x, sizes})
	if err != nil {
		t.Fatal(err)
	}
	var index bytes.Buffer
	if _, err := x.WriteTo(&index); err != nil {
		t.Fatal(err)
	}
	s := translate.Stream{Index: ocispec.Descriptor{Size: int64(index.Len())}, Size: x.Size()}
	return b, &translate.Manifest{Catar: s, Extra: &s}
}

func TestSpans(t *testing.T) {
	b, m := spansOf(t)
	x, sizes := testIndex()
	s, err := decodeSpans(b, m)
	if err != nil {
		t.Fatal(err)
	}
	if s.Catar != len(x.Chunks) || len(s.Sizes) != 2*len(x.Chunks) || s.Params != x.Params {
		t.Errorf("%+v", s)
	}
	for i := range s.Sizes {
		if _, size := x.Span(i % s.Catar); s.Sizes[i] != size || s.Stored[i] != sizes[i%s.Catar] {
			t.Errorf("chunk %d: %d bytes, stored in %d", i, s.Sizes[i], s.Stored[i])
		}
	}
	for name, m := range map[string]*translate.Manifest{
		"one stream":     {Catar: m.Catar},
		"another length": {Catar: translate.Stream{Index: m.Catar.Index, Size: m.Catar.Size + 1}, Extra: m.Extra},
		"fewer chunks":   {Catar: translate.Stream{Index: ocispec.Descriptor{Size: m.Catar.Index.Size - 40}, Size: m.Catar.Size}, Extra: m.Extra},
	} {
		if s, err := decodeSpans(b, m); !isBad(err) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	if s, err := decodeSpans(b[:len(b)/2], m); !isBad(err) {
		t.Errorf("cut short: %+v, %v", s, err)
	}
}

func FuzzDecodeSpans(f *testing.F) {
	b, m := spansOf(f)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSpans(b, m)
		if err != nil {
			return
		}
		if len(s.Sizes) != len(s.Stored) || s.Catar > len(s.Sizes) || sum(s.Sizes) != m.Catar.Size+m.Extra.Size {
			t.Fatalf("%+v", s)
		}
	})
}

func FuzzParseTag(f *testing.F) {
	dir := f.TempDir()
	publish(f, dir+"/app:1", publication(f, dir, "x", false))
	b, err := os.ReadFile(filepath.Join(dir, "app", "1.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		tag, err := parseTag(b)
		if err != nil {
			return
		}
		again, err := tag.encode()
		if err != nil {
			return // a year that RFC 3339 cannot write
		}
		got, err := parseTag(again)
		if err != nil || got.Serial != tag.Serial || len(got.Images) != len(tag.Images) || got.Images[0].Digest != tag.Images[0].Digest || len(got.Others) != len(tag.Others) {
			t.Fatalf("%+v, %v, want %+v", got, err, tag)
		}
	})
}

func FuzzParseCatalog(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":1,"images":[{"name":"a/b","tags":["1","2"]},{"name":"c","tags":[]}]}`))
	f.Add([]byte(`{"schemaVersion":1,"images":[{"name":"../b"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		names, err := parseCatalog(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(catalogFile{SchemaVersion: 1, Images: names})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseCatalog(again); err != nil || !reflect.DeepEqual(got, names) {
			t.Fatalf("%v, %v, want %v", got, err, names)
		}
	})
}

func TestParseCatalogRefuses(t *testing.T) {
	for _, b := range []string{
		``, `[]`, `{}`, `{"schemaVersion":2}`,
		`{"schemaVersion":1,"images":[{"name":"../x"}]}`,
		`{"schemaVersion":1,"images":[{"name":"b"},{"name":"a"}]}`,
		`{"schemaVersion":1,"images":[{"name":"a","tags":["1","1"]}]}`,
		`{"schemaVersion":1,"images":[{"name":"a","tags":["index"]}]}`,
	} {
		if names, err := parseCatalog([]byte(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v", b, names, err)
		}
	}
}

// TestParseTagRefuses changes a good TAG.json in every way that is wrong.
func TestParseTagRefuses(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir+"/app:1", publication(t, dir, "x", false))
	good, err := os.ReadFile(filepath.Join(dir, "app", "1.json"))
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range [][2]string{
		{`"schemaVersion":2`, `"schemaVersion":3`},
		{`image.index.v1`, `image.index.v2`},
		{`"artifactType":"application/vnd.ociv2-sync.image.v1"`, `"artifactType":"x"`},
		{`image.manifest.v1`, `image.manifest.v2`},
		{`"digest":"sha256:`, `"digest":"sha256:00`},
		{`"size":`, `"size":-`},
		{`"io.github.ociv2-sync.serial":"`, `"io.github.ociv2-sync.serial":"-`},
		{`"org.opencontainers.image.created":"`, `"org.opencontainers.image.created":"x`},
	} {
		bad := bytes.Replace(good, []byte(c[0]), []byte(c[1]), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("no %s in %s", c[0], good)
		}
		if tag, err := parseTag(bad); !isBad(err) {
			t.Errorf("case %d: %+v, %v", i, tag, err)
		}
	}
}

// A tag with several images says which is for whom.
func TestTagPlatforms(t *testing.T) {
	image := func(platform string) string {
		return `{"mediaType":"` + ocispec.MediaTypeImageManifest + `","artifactType":"` + translate.MediaTypeImage + `","size":1,"digest":"` + digestOf([]byte(platform)).String() + `"` + platform + `}`
	}
	tag := func(images ...string) (*tagFile, error) {
		return parseTag([]byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[` + strings.Join(images, ",") +
			`],"annotations":{"io.github.ociv2-sync.serial":"1","org.opencontainers.image.created":"2024-01-02T03:04:05Z"}}`))
	}
	bare := image("")
	arm, armv7, mips := image(`,"platform":{"os":"linux","architecture":"arm64"}`), image(`,"platform":{"os":"linux","architecture":"arm","variant":"v7"}`), image(`,"platform":{"os":"linux","architecture":"mips"}`)
	for _, images := range [][]string{{}, {bare, arm}, {arm, arm}, {bare, bare}} {
		if got, err := tag(images...); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: %v, %v", images, got, err)
		}
	}
	for _, c := range []struct {
		images   []string
		platform string
		want     int // the image, -1 for none
	}{
		{[]string{bare}, "", 0},
		{[]string{bare}, "linux/arm64", 0}, // it may be for that
		{[]string{arm}, "", 0},
		{[]string{arm}, "linux/mips", -1},
		{[]string{arm, armv7}, "linux/arm", 1},
		{[]string{arm, armv7}, "linux/arm/v7", 1},
		{[]string{arm, armv7}, "linux/arm/v6", -1},
		{[]string{armv7, mips}, "", -1}, // none is this machine's
	} {
		got, err := tag(c.images...)
		if err != nil {
			t.Fatal(err)
		}
		d, err := got.image(c.platform)
		if c.want < 0 {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%v: %v, %v", c, d.Digest, err)
			}
		} else if err != nil || d.Digest != got.Images[c.want].Digest {
			t.Errorf("%v: %v, %v", c, d.Digest, err)
		}
	}
}
