// Package transfer moves whole images: Push from a source into a repository,
// Prepare and Pull from a repository onto this device.
package transfer

import "errors"

var (
	// ErrUsage means that what is asked for makes no sense.
	ErrUsage = errors.New("wrong usage")
	// ErrBudget means that the plan would fetch more than is allowed.
	ErrBudget = errors.New("over budget")
	// ErrSpace means that the disk cannot hold what the plan needs.
	ErrSpace = errors.New("not enough space")
)
