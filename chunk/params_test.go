package chunk

import (
	"errors"
	"testing"
)

// What casync 2 makes of its option --chunk-size; the sizes are those of the
// index that it then writes.
func TestParseParams(t *testing.T) {
	for s, want := range map[string]Params{
		"auto": {16384, 65536, 262144}, "64K": {16384, 65536, 262144}, "12": {3, 12, 48}, "64B": {16, 64, 256},
		"63": {15, 63, 252}, "65537": {16384, 65537, 262148}, "1.5K": {384, 1536, 6144}, "010000": {2500, 10000, 40000},
		"33M": {8650752, 34603008, 134217728}, "128M": {33554432, 134217728, 134217728},
		"16K:64K:256K": {16384, 65536, 262144}, "1:64:256": {1, 64, 256}, "32:32:32": {32, 32, 32},
		"20:30:48": {20, 30, 48}, "16:64:128M": {16, 64, 134217728},
	} {
		got, err := ParseParams(s)
		if err != nil || got != want {
			t.Errorf("ParseParams(%q) = %v, %v; want %v", s, got, err, want)
		}
		if again, err := ParseParams(got.String()); err != nil || again != got {
			t.Errorf("ParseParams(%q) = %v, %v", got.String(), again, err)
		}
	}
	for _, s := range []string{
		"", "K", "1", "11", "64k", "64KB", "64Ki", "64K ", "0x10000", "-1", "129M", "1G", "1T", "1E", "18446744073709551616",
		"16E", "15.9E", "1.", ".5K", "1.5.5K", "1.0000000001K", "auto:64K:auto", "Auto", "16K:64K", "16K::256K", "::", "1:2:3:4",
		"0:64K:256K", "64K:16K:256K", "16K:64K:32K", "16:64:129M", "1:16:47", "16K,64K,256K",
	} {
		if got, err := ParseParams(s); !errors.Is(err, ErrParams) {
			t.Errorf("ParseParams(%q) = %v, %v; want ErrParams", s, got, err)
		}
	}
}

// What is accepted can be cut by, and is read again from its own spelling.
func FuzzParseParams(f *testing.F) {
	for _, s := range []string{"auto", "64K", "16K:64K:256K", "1.5K", "0.000000001E", "99999999999999999999", "1:2", "::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseParams(s)
		if err != nil {
			if !errors.Is(err, ErrParams) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if again, err := ParseParams(p.String()); p.cuttable() != nil || err != nil || again != p {
			t.Errorf("%q = %v; again %v, %v", s, p, again, err)
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add(SHA256.Sum(nil).String())
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s); err == nil && id.String() != s {
			t.Errorf("%q is read as %s", s, id)
		}
	})
}

func TestID(t *testing.T) {
	id := SHA512_256.Sum([]byte("abc"))
	const text = "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"
	if id.String() != text {
		t.Errorf("SHA-512/256 of abc is %s", id)
	}
	if got := SHA256.Sum([]byte("abc")).String(); got != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("SHA-256 of abc is %s", got)
	}
	for _, a := range []Algorithm{SHA512_256, SHA256} {
		h := a.New()
		h.Write([]byte("abc"))
		if want := a.Sum([]byte("abc")); ID(h.Sum(nil)) != want {
			t.Errorf("%v: running digest %x, want %s", a, h.Sum(nil), want)
		}
	}
	if b, err := id.MarshalText(); err != nil || string(b) != text {
		t.Errorf("MarshalText = %s, %v", b, err)
	}
	if got, err := ParseID(text); err != nil || got != id {
		t.Errorf("ParseID = %s, %v", got, err)
	}
	for _, bad := range []string{"", text[1:], text + "0", "G" + text[1:], "A" + text[1:], text[:63] + "/"} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) succeeded", bad)
		}
	}
}
