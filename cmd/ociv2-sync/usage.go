package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// strictHelp makes cobra's own commands, help and completion, refuse what is no
// command, for which they print some help and succeed.
func strictHelp(cmd *cobra.Command) {
	cmd.InitDefaultHelpCmd()
	cmd.InitDefaultCompletionCmd()
	for _, sub := range cmd.Commands() {
		switch sub.Name() {
		case "help":
			help := sub.Run
			sub.Run = nil
			sub.RunE = func(sub *cobra.Command, args []string) error {
				if of, rest, err := cmd.Find(args); err != nil || len(rest) > 0 {
					return noSuchCommand(of, rest)
				}
				help(sub, args)
				return nil
			}
		case "completion":
			sub.Args, sub.RunE = noSuchCommand, noCommand
		}
	}
}

// noSuchCommand is the argument check of what has commands below it: an argument is
// the name of none.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	near := ""
	if names := cmd.SuggestionsFor(args[0]); len(names) > 0 {
		near = " (did you mean " + strings.Join(names, " or ") + "?)"
	}
	_, below, _ := strings.Cut(cmd.CommandPath()+" "+args[0], " ")
	return usageError{fmt.Errorf("there is no command %q%s; see %s --help", below, near, cmd.CommandPath())}
}

// noCommand is what that does which has commands below it.
func noCommand(cmd *cobra.Command, _ []string) error {
	return usageError{fmt.Errorf("no command given; see %s --help", cmd.CommandPath())}
}

// flagError says in place of Go what is wrong with the value of a flag.
func flagError(err error) error {
	wrong, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	want := ""
	switch wrong.GetFlag().Value.Type() {
	case "int", "uint", "int64", "uint64":
		want = "a number"
	case "duration":
		want = "a time such as 30s or 10m"
	default:
		return err
	}
	return fmt.Errorf("--%s is %s, not %q", wrong.GetFlag().Name, want, wrong.GetValue())
}

// usageArgs makes the errors of an argument check usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if slices.Contains(args, "") { // a variable of the shell that is not set
			return usageError{fmt.Errorf("an empty argument; usage: %s", cmd.UseLine())}
		}
		err := check(cmd, args)
		if _, ok := errors.AsType[usageError](err); ok || err == nil {
			return err
		}
		much, more := "many", args
		for range 3 {
			if more = append(more, ""); check(cmd, more) == nil {
				much = "few"
			}
		}
		return usageError{fmt.Errorf("too %s arguments; usage: %s", much, cmd.UseLine())}
	}
}
