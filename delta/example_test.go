package delta

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// The streams of the example of the format's page make its content.
func TestExampleOfTheFormat(t *testing.T) {
	page, err := os.ReadFile("../docs/format/delta.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ = bytes.Cut(page, []byte("## 6. Example"))
	const old, content = "hello world\n", "hello, world\n"
	var in [streams]source
	for i, name := range []string{"adds", "inserts", "seeks", "differences", "bytes"} {
		_, line, ok := bytes.Cut(page, []byte("\n"+name+" "))
		if !ok {
			t.Fatalf("no line of %s", name)
		}
		var values []byte
		for word := range strings.FieldsSeq(string(line[:bytes.IndexByte(line, '\n')])) {
			b, err := hex.DecodeString(word)
			if err != nil {
				break // what follows is said of them
			}
			values = append(values, b...)
		}
		in[i] = bytes.NewReader(values)
	}
	var out bytes.Buffer
	p := player{in: &in, buf: make([]byte, 4)}
	if soft, err := p.play(int64(len(content)), strings.NewReader(old), &out); soft != nil || err != nil || out.String() != content {
		t.Errorf("the page's streams make %q, %v, %v", out.String(), soft, err)
	}
}
