package translate

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func blobDescriptor(mediaType, content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
}

func sampleManifest() *Manifest {
	spans := blobDescriptor(MediaTypeSpans, "spans")
	return &Manifest{
		Spans:        &spans,
		Config:       blobDescriptor(ocispec.MediaTypeImageConfig, "config"),
		TOC:          blobDescriptor(MediaTypeTOC, "toc"),
		TOCDigest:    digest.FromString("canonical"),
		TOCSize:      1234,
		FeatureFlags: 0x20000000b0001e22,
		Catar: Stream{
			Index: blobDescriptor(MediaTypeCaidx, "caidx"),
			Sizes: blobDescriptor(MediaTypeSizes, "sizes"),
			Size:  1 << 30,
		},
		Extra: &Stream{
			Index: blobDescriptor(MediaTypeCaibx, "caibx"),
			Sizes: blobDescriptor(MediaTypeSizes, "more sizes"),
			Size:  7,
		},
		Source: digest.FromString("source"),
		Store:  "../default.castr/",
	}
}

func encode(t testing.TB, m *Manifest) []byte {
	t.Helper()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestManifestRoundTrip(t *testing.T) {
	full, small, old, attached := sampleManifest(), sampleManifest(), sampleManifest(), sampleManifest()
	attached.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: attached.Source, Size: 700}
	small.Extra, small.Source = nil, ""
	old.Spans = nil
	for _, want := range []*Manifest{full, small, old, attached} {
		b := encode(t, want)
		got, err := ParseManifest(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		blobs := 4
		if want.Extra != nil {
			blobs += 2
		}
		if want.Spans != nil {
			blobs++
		}
		if n := len(got.Blobs()); n != blobs {
			t.Errorf("%d blobs, want %d", n, blobs)
		}
	}
}

// TestManifestGolden holds the manifest to the bytes in the specification.
func TestManifestGolden(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got := encode(t, sampleManifest()); !bytes.Equal(got, bytes.TrimSpace(want)) {
		t.Errorf("got\n%s", got)
	}
}

func TestManifestIgnoresWhatComesLater(t *testing.T) {
	b := encode(t, sampleManifest())
	more := bytes.Replace(b, []byte(`],"annotations":{`),
		[]byte(`,{"mediaType":"application/vnd.example","digest":"?","size":-1}],"annotations":{"io.github.ociv2-sync.later":"x",`), 1)
	if bytes.Equal(more, b) {
		t.Fatal("nothing replaced")
	}
	got, err := ParseManifest(more)
	if err != nil || !reflect.DeepEqual(got, sampleManifest()) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestManifestRefuses(t *testing.T) {
	text := string(encode(t, sampleManifest()))
	tests := []struct {
		name, from, to string
		is             error
	}{
		{"not JSON", `{`, `[`, ErrMalformed},
		{"trailing data", `}}`, `}}{}`, ErrMalformed},
		{"schema", `"schemaVersion":2`, `"schemaVersion":1`, ErrMalformed},
		{"media type", ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, ErrMalformed},
		{"no artifact", `"artifactType":"` + MediaTypeImage, `"artifactType":"other`, ErrUnsupported},
		{"config", ocispec.MediaTypeEmptyJSON, ocispec.MediaTypeImageConfig, ErrMalformed},
		{"no config", `"layers":[{"mediaType":"` + ocispec.MediaTypeImageConfig, `"layers":[{"mediaType":"`, ErrMalformed},
		{"config of ours", `"layers":[{"mediaType":"` + ocispec.MediaTypeImageConfig, `"layers":[{"mediaType":"` + MediaTypeTOC, ErrMalformed},
		{"order", MediaTypeTOC, MediaTypeCaidx, ErrMalformed},
		{"extra of another type", MediaTypeCaibx, MediaTypeCaibx + "x", ErrMalformed},
		{"digest", digest.FromString("toc").String(), "sha256:12", ErrMalformed},
		{"algorithm", digest.FromString("toc").String(), digest.SHA512.FromString("toc").String(), ErrMalformed},
		{"size", `"size":6`, `"size":-6`, ErrMalformed},
		{"large config", `"size":6`, `"size":8388609`, ErrLimit},
		{"toc digest", `toc.digest":"sha256:`, `toc.digest":"sha256:0`, ErrMalformed},
		{"toc size", `toc.size":"1234"`, `toc.size":"01234"`, ErrMalformed},
		{"no toc size", `toc.size":"1234"`, `toc.sizes":"1234"`, ErrMalformed},
		{"large toc", `toc.size":"1234"`, `toc.size":"1073741825"`, ErrLimit},
		{"flags", `"0x20000000b0001e22"`, `"0x20000000B0001e22"`, ErrMalformed},
		{"catar size", `"1073741824"`, `"-1"`, ErrMalformed},
		{"large catar", `"1073741824"`, `"4611686018427387904"`, ErrMalformed},
		{"extra size", `extra.size":"7"`, `extra.size":"0"`, ErrMalformed},
		{"source", digest.FromString("source").String(), "x", ErrMalformed},
		{"subject", `"layers":[`, `"subject":{"digest":"x"},"layers":[`, ErrMalformed},
		{"store", `"../default.castr/"`, `""`, ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bad := strings.Replace(text, tt.from, tt.to, 1)
			if bad == text {
				t.Fatalf("no %q in %s", tt.from, text)
			}
			m, err := ParseManifest([]byte(bad))
			if !errors.Is(err, tt.is) {
				t.Errorf("got %+v, %v", m, err)
			}
		})
	}
	if _, err := ParseManifest(make([]byte, MaxManifest+1)); !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
	bad := sampleManifest()
	bad.TOC.Digest = "sha256:"
	if _, err := bad.Encode(); !errors.Is(err, ErrMalformed) {
		t.Errorf("Encode: %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(encode(f, sampleManifest()))
	small := sampleManifest()
	small.Extra, small.Source = nil, ""
	f.Add(encode(f, small))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("what was parsed cannot be encoded: %v", err)
		}
		if n, err := ParseManifest(again); err != nil || !reflect.DeepEqual(n, m) {
			t.Fatalf("got %+v, %v, want %+v", n, err, m)
		}
	})
}
