package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestJSONDocumented holds docs/json.md to what the commands print.
func TestJSONDocumented(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	doc := read("../../docs/json.md")
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	field := regexp.MustCompile("json:\"(\\w+)")
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, m := range field.FindAllStringSubmatch(read(name), -1) {
			if !strings.Contains(doc, "`"+m[1]+"`") && m[1] != "error" {
				t.Errorf("%s: %s is not in docs/json.md", name, m[1])
			}
		}
	}
}
