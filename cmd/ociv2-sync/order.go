package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// verbFirst moves options that come before the verb behind it, where the
// library expects those that are the verb's own: casync takes them anywhere,
// and puts them first when it calls itself on another host.
func verbFirst(root *cobra.Command, args []string) []string {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" || arg == "-" {
			return args
		}
		if name, ok := strings.CutPrefix(arg, "-"); ok {
			if takesValue(root, name) {
				i++
			}
			continue
		}
		out := append([]string{arg}, args[:i]...)
		return append(out, args[i+1:]...)
	}
	return args
}

// takesValue reports whether the argument after an option is its value.
func takesValue(root *cobra.Command, option string) bool {
	long, isLong := strings.CutPrefix(option, "-")
	if strings.Contains(long, "=") {
		return false
	}
	return slices.ContainsFunc(append(root.Commands(), root), func(c *cobra.Command) bool {
		f := c.Flags().Lookup(long)
		if f == nil {
			f = root.PersistentFlags().Lookup(long)
		}
		if !isLong { // -l7 has its value with it, -l 7 has not
			if len(option) != 1 {
				return false
			}
			f = c.Flags().ShorthandLookup(option)
			if f == nil {
				f = root.PersistentFlags().ShorthandLookup(option)
			}
		}
		return f != nil && f.NoOptDefVal == ""
	})
}
