package main

import (
	"io"
	"slices"
	"strings"
	"testing"
)

func TestVerbFirst(t *testing.T) {
	a := &app{stdout: io.Discard, stderr: io.Discard, env: func(string) (string, bool) { return "", false }}
	root := newRootCommand(a)
	for args, want := range map[string]string{
		"":                                   "",
		"list x":                             "list x",
		"--store=a list x":                   "list --store=a x",
		"--store a -q list x":                "list --store a -q x",
		"--chunk-size 4K --store a make x y": "make --chunk-size 4K --store a x y",
		"-l debug extract - y":               "extract -l debug - y",
		"--json --help":                      "--json --help",
		"-n gc x":                            "gc -n x",
		"--unknown list":                     "list --unknown",
		"-- list":                            "-- list",
	} {
		if got := verbFirst(root, strings.Fields(args)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}
