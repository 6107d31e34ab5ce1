package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelp looks at what every command says of itself.
func TestHelp(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		t.Run(cmd.CommandPath(), func(t *testing.T) {
			args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
			r := newDevice(t).must(args...)
			if r.stderr != "" {
				t.Errorf("help on standard error: %s", r.stderr)
			}
			if !strings.Contains(r.stdout, exitHelp) {
				t.Error("no exit codes")
			}
			if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
				t.Errorf("short help %q", cmd.Short)
			}
			if !cmd.HasSubCommands() && cmd.Example == "" {
				t.Error("no example")
			}
			for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
				if len(line) > 101 {
					t.Errorf("long line: %s", line)
				}
			}
			cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
				switch kind, usage := pflag.UnquoteUsage(f); {
				case usage == "":
					t.Errorf("--%s has no help", f.Name)
				case kind == "string" || kind == "strings" || kind == "int" || strings.HasSuffix(kind, "Array"):
					t.Errorf("--%s takes %q, which says nothing of what it is", f.Name, kind)
				}
			})
		})
		for _, sub := range cmd.Commands() {
			if sub.Name() != "help" && sub.Name() != "completion" {
				walk(sub)
			}
		}
	}
	walk(newRootCommand(&app{env: func(string) (string, bool) { return "", false }}))
}
