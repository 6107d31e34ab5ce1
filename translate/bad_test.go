package translate

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// mergeError merges src, which must fail, and checks that nothing is left behind.
func mergeError(t testing.TB, src Source, opts MergeOptions) error {
	t.Helper()
	opts.TempDir = t.TempDir()
	s, err := Merge(t.Context(), src, opts)
	if err == nil {
		s.Close()
		t.Fatalf("no error, but\n%s", sketch(s.Nodes))
	}
	if left, rerr := os.ReadDir(opts.TempDir); rerr != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, rerr)
	}
	return err
}

// TestMergeRefusesEntries is about entries that no image should have: each gives
// an error that names the layer and the entry.
func TestMergeRefusesEntries(t *testing.T) {
	long := strings.Repeat("n", 256)
	pax := func(typ byte, records map[string]string) item {
		return item{tar.Header{Typeflag: typ, Name: "p", PAXRecords: records}, ""}
	}
	for _, tc := range []struct {
		name  string
		items []item
		limit Limits
		is    error
		entry string // as the error names it, if not the name of the last item
		says  string
	}{
		{name: "name above the root", items: []item{file("a/../../b", "")}, says: "leads out of the image"},
		{name: "absolute name above the root", items: []item{file("/../b", "")}, says: "leads out of the image"},
		{name: "link target above the root", items: []item{link("a", "../../etc/passwd")}, says: "leads out of the image"},
		{name: "link to nothing", items: []item{link("a", "b")}, says: `hard link to "b", which does not exist`},
		{name: "link to itself", items: []item{file("a", "1"), link("a", "a")}, says: "itself"},
		{name: "links in a circle", items: []item{link("a", "b"), link("b", "c"), link("c", "b")}, entry: "a", says: "itself"},
		{name: "link to a directory", items: []item{dir("d"), link("a", "d")}, says: "hard link to a directory"},
		{name: "link to the root", items: []item{link("a", "/")}, says: "hard link to a directory"},
		{name: "late link to a directory", items: []item{link("a", "d"), dir("d")}, entry: "a", says: "hard link to a directory"},
		{name: "link as the root", items: []item{file("a", ""), link("./", "a")}, says: "the root must be a directory"},
		{name: "symlink as the root", items: []item{symlink("./", "a")}, says: "the root must be a directory"},
		{name: "symlinks in a circle", items: []item{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}, says: "too many symlinks"},
		{name: "symlink that grows its path", items: []item{symlink("a", "b/c/d/a"), symlink("b/c/d/a", "/a/x/a"), file("a/x", "")}, says: "too many symlinks"},
		{name: "path that symlinks make long", items: []item{dir(strings.Repeat("d/", 1500) + "e"), symlink("s", strings.Repeat("d/", 1500)), symlink("s/s", strings.Repeat("e/", 1500)), file("s/s/f", "")}, is: ErrLimit, says: "symlinks resolved"},
		{name: "whiteout without a name", items: []item{file("d/.wh.", "")}, says: "whiteout of nothing"},
		{name: "whiteout of .", items: []item{file("d/.wh..", "")}, says: "whiteout of nothing"},
		{name: "whiteout of ..", items: []item{file(".wh...", "")}, says: "whiteout of nothing"},
		{name: "entry below a whiteout", items: []item{file("d/.wh.x/y", "")}, says: "below a whiteout"},
		{name: "name too long", items: []item{file("a/"+long, "")}, is: ErrLimit, says: "component of name above 255"},
		{name: "path too long", items: []item{file(strings.Repeat("d/", 2100)+"f", "")}, is: ErrLimit, says: "bytes of name above 4095"},
		{name: "symlink target too long", items: []item{symlink("a", strings.Repeat("d/", 2100))}, is: ErrLimit, says: "symlink target above 4095"},
		{name: "symlink to nothing", items: []item{symlink("a", "")}, says: `symlink to ""`},
		{name: "owner out of range", items: []item{{tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: 1 << 32}, ""}}, says: "owner 4294967296:0"},
		{name: "device out of range", items: []item{{tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1 << 12, Format: tar.FormatGNU}, ""}}, says: "device 4096:0"},
		{name: "unknown type", items: []item{{tar.Header{Typeflag: 'V', Name: "a", Format: tar.FormatUSTAR}, ""}}, says: "tar type 'V'"},
		{name: "xattr without a name", items: []item{pax(tar.TypeReg, map[string]string{paxSchily: "v"})}, says: "xattr name"},
		{name: "xattr name with a zero", items: []item{pax(tar.TypeReg, map[string]string{paxLibarchive + "user.%00": "AA"})}, says: "xattr name"},
		{name: "xattr that is no base64", items: []item{pax(tar.TypeReg, map[string]string{paxLibarchive + "user.a": "?"})}, says: "user.a"},
		{name: "xattr name that is no URL", items: []item{pax(tar.TypeReg, map[string]string{paxLibarchive + "user.%z": "AA"})}, says: "xattr name"},
		{name: "xattr twice", items: []item{pax(tar.TypeReg, map[string]string{paxLibarchive + "user.a": "AA", paxLibarchive + "user.%61": "AA"})}, says: "twice"},
		{name: "xattr too big", items: []item{pax(tar.TypeReg, map[string]string{paxSchily + "user.a": strings.Repeat("x", 1<<16+1)})}, is: ErrLimit, says: "xattr user.a above 65536"},
		{name: "global header that sets owners", items: []item{{tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"uid": "1"}}, ""}}, says: "global PAX header sets uid"},
		{name: "too many entries", items: []item{file("a", ""), file("b", ""), file("c", "")}, limit: Limits{Entries: 2}, is: ErrLimit, says: "entries above 2"},
		{name: "too much metadata", items: []item{file("abcdefgh", ""), file("ijklmnop", "")}, limit: Limits{Metadata: 10}, is: ErrLimit, says: "above 10"},
		{name: "path above its limit", items: []item{file("abcdefgh", "")}, limit: Limits{Path: 7}, is: ErrLimit, says: "name above 7"},
		{name: "xattr above its limit", items: []item{pax(tar.TypeReg, map[string]string{paxSchily + "user.a": "xxx"})}, limit: Limits{XAttr: 2}, is: ErrLimit, says: "user.a above 2"},
		{name: "layer above the limit", items: []item{file("a", strings.Repeat("x", 100<<10))}, limit: Limits{Bytes: 100 << 10}, is: ErrLimit, says: "uncompressed bytes above 102400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img := newImage(t, gzipLayer(t, tarOf(t, dir("first"))), gzipLayer(t, tarOf(t, tc.items...)))
			err := mergeError(t, img, MergeOptions{Limits: tc.limit})
			if tc.is == nil {
				tc.is = ErrMalformed
			}
			if !errors.Is(err, tc.is) {
				t.Errorf("%v\nis not %q", err, tc.is)
			}
			le, ok := errors.AsType[*LayerError](err)
			if !ok {
				t.Fatalf("%v\nis no LayerError", err)
			}
			if tc.entry == "" {
				tc.entry = tc.items[len(tc.items)-1].h.Name
			}
			if le.Index != 1 || le.Entry != tc.entry {
				t.Errorf("names layer %d entry %q, want layer 1 entry %q: %v", le.Index, le.Entry, tc.entry, err)
			}
			if !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q does not say %q on one line", err, tc.says)
			}
		})
	}
}

// TestMergeRefusesLayers is about blobs that are not what the image says.
func TestMergeRefusesLayers(t *testing.T) {
	raw := tarOf(t, file("a", "1"), file("b", strings.Repeat("abc", 1000)))
	other := tarOf(t, file("a", "2"))
	gz, zs := gzipLayer(t, raw), zstdLayer(t, raw)
	with := func(l stored, blob []byte) stored { l.blob = blob; return l }
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, tc := range []struct {
		name  string
		layer stored
		spoil func(*memImage)
		is    error
		says  string
	}{
		{name: "gzip cut", layer: with(gz, gz.blob[:len(gz.blob)-9]), is: ErrMalformed, says: "truncated"},
		{name: "gzip cut early", layer: with(gz, gz.blob[:5]), is: ErrMalformed, says: "at its first header: malformed image: truncated"},
		{name: "gzip empty", layer: with(gz, nil), is: ErrMalformed, says: "truncated"},
		{name: "zstd cut", layer: with(zs, zs.blob[:len(zs.blob)-9]), is: ErrMalformed, says: "truncated"},
		{name: "tar cut in a content", layer: plainLayer(raw[:4000]), is: ErrMalformed, says: `entry "b": malformed image: truncated`},
		{name: "tar cut in a header", layer: plainLayer(raw[:3300]), is: ErrMalformed, says: "truncated"},
		{name: "no tar", layer: plainLayer([]byte(strings.Repeat("no tar ", 200))), is: ErrMalformed, says: "invalid tar header"},
		{name: "garbage after the archive", layer: gzipLayer(t, cat(raw, []byte("x"))), is: ErrMalformed, says: "after the end of the archive: trailing garbage"},
		{name: "archive after the archive", layer: gzipLayer(t, cat(raw, other)), is: ErrMalformed, says: "after the end of the archive: trailing garbage"},
		{name: "garbage after gzip", layer: with(gz, cat(gz.blob, []byte("x"))), is: ErrMalformed, says: "after the compressed data: trailing garbage"},
		{name: "garbage after zeros after gzip", layer: with(gz, cat(gz.blob, make([]byte, 100), []byte("x"))), is: ErrMalformed, says: "trailing garbage"},
		{name: "bad gzip after gzip", layer: with(gz, cat(gz.blob, []byte("\x1f\x8c"))), is: ErrMalformed},
		{name: "garbage after zstd", layer: with(zs, cat(zs.blob, []byte("garbage"))), is: ErrMalformed},
		{name: "plain, said to be gzip", layer: with(gz, raw), is: ErrMalformed, says: "not a gzip file"},
		{name: "gzip, said to be plain", layer: with(plainLayer(raw), gz.blob), is: ErrMalformed},
		{name: "zstd, said to be gzip", layer: with(gz, zs.blob), is: ErrMalformed},
		{name: "unknown media type", layer: stored{"text/plain", raw, raw}, is: ErrUnsupported, says: `media type "text/plain"`},
		{name: "foreign layer", layer: stored{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", gz.blob, raw}, is: ErrUnsupported, says: "foreign layer"},
		{name: "other diff_id", layer: stored{gz.mediaType, gz.blob, other}, is: ErrMismatch, says: "(diff_id) has digest"},
		{name: "other bytes", layer: gz, spoil: func(m *memImage) { m.blobs[0] = gzipLayer(t, other).blob }, is: ErrMismatch, says: "blob has digest"},
		{name: "a flipped bit", layer: gz, spoil: func(m *memImage) { m.blobs[0] = bytes.Clone(gz.blob); m.blobs[0][40] ^= 4 }, is: ErrMismatch, says: "blob has digest"},
		{name: "stored bytes missing", layer: gz, spoil: func(m *memImage) { m.blobs[0] = gz.blob[:50] }, is: ErrMismatch, says: "blob has digest"},
		{name: "stored bytes too many", layer: gz, spoil: func(m *memImage) { m.blobs[0] = cat(gz.blob, []byte{0}) }, is: ErrMismatch, says: "more than the"},
		{name: "no digest, other size", layer: gz, spoil: func(m *memImage) { m.info.Layers[0].Digest = ""; m.info.Layers[0].Size++ }, is: ErrMismatch, says: "the manifest gives"},
		{name: "cannot be read", layer: gz, spoil: func(m *memImage) { m.blobs = nil }, is: errGone, says: "gone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img := newImage(t, tc.layer)
			if tc.spoil != nil {
				tc.spoil(img)
			}
			err := mergeError(t, failing{img}, MergeOptions{})
			if !errors.Is(err, tc.is) {
				t.Errorf("%v\nis not %q", err, tc.is)
			}
			if errors.Is(tc.is, errGone) && errors.Is(err, ErrMalformed) {
				t.Errorf("%v\nblames the image", err)
			}
			if !strings.Contains(err.Error(), "layer 1 of 1 (sha256:") || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q does not say %q on one line", err, tc.says)
			}
		})
	}
}

var errGone = errors.New("gone")

// failing is an image that breaks off in the middle when it has no blobs.
type failing struct{ *memImage }

func (f failing) Open(ctx context.Context, i int) (io.ReadCloser, error) {
	if f.blobs != nil {
		return f.memImage.Open(ctx, i)
	}
	return io.NopCloser(io.MultiReader(strings.NewReader("\x1f\x8b\x08"), failingReader{})), nil
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errGone }

// What other tools pad and split is no garbage.
func TestMergeAccepts(t *testing.T) {
	raw := tarOf(t, file("a", "1"))
	gz := gzipLayer(t, raw)
	padded := append(bytes.Clone(raw), make([]byte, 9000)...)
	members := append(gzipLayer(t, raw[:700]).blob, gzipLayer(t, raw[700:]).blob...)
	skippable := append([]byte("\x50\x2a\x4d\x18\x03\x00\x00\x00abc"), zstdLayer(t, raw).blob...)
	for name, layer := range map[string]stored{
		"padding after the archive": gzipLayer(t, padded),
		"padding after gzip":        {gz.mediaType, append(bytes.Clone(gz.blob), make([]byte, 70000)...), raw},
		"no end of archive":         plainLayer(raw[:len(raw)-1024]),
		"several gzip members":      {gz.mediaType, members, raw},
		"a skippable zstd frame":    {ocispec.MediaTypeImageLayerZstd, skippable, raw},
		"docker's media type":       {dockerLayerGzip, gz.blob, raw},
	} {
		t.Run(name, func(t *testing.T) {
			if got, w := sketch(merge(t, newImage(t, layer))), want("a:1"); got != w {
				t.Errorf("got\n%swant\n%s", got, w)
			}
		})
	}
}

func TestMergeStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Merge(ctx, newImage(t, plainLayer(tarOf(t, file("a", "1")))), MergeOptions{TempDir: t.TempDir()})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

func TestMergeNeedsTempDir(t *testing.T) {
	_, err := Merge(t.Context(), newImage(t), MergeOptions{TempDir: t.TempDir() + "/none"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestNewImageInfoRefuses(t *testing.T) {
	id := digest.FromString("x")
	for name, tc := range map[string]struct {
		config string
		layers []Layer
	}{
		"no JSON":          {`{`, nil},
		"no layers":        {`{"rootfs":{"type":"disk"}}`, nil},
		"empty object":     {`{}`, nil},
		"too few diff_ids": {`{"rootfs":{"type":"layers","diff_ids":[]}}`, make([]Layer, 1)},
		"bad diff_id":      {`{"rootfs":{"type":"layers","diff_ids":["sha256:0"]}}`, make([]Layer, 1)},
		"bad digest":       {`{"rootfs":{"type":"layers","diff_ids":["` + id.String() + `"]}}`, []Layer{{Digest: "md5:00"}}},
		"negative size":    {`{"rootfs":{"type":"layers","diff_ids":["` + id.String() + `"]}}`, []Layer{{Size: -1}}},
	} {
		if _, err := NewImageInfo([]byte(tc.config), "", "", tc.layers); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
