package plan

import (
	"fmt"

	"svcproxy/model"
)

// Change is what a backend is asked to bring into the kernel, in one step.
type Change struct {
	Config Config
	// Services are the new decisions by name; nil means that the Service is gone.
	Services map[model.ServiceName]*Service
	// Full says that Services is the whole plan and that the kernel may hold anything: the backend reads
	// it back, makes it equal to the plan and removes what else it finds of its own. Otherwise the
	// backend compares with what it last acknowledged, and Config is the same as then.
	Full bool
	// Hold names Services, in a full change, that keep what was last acknowledged for them, which is
	// nothing for a Service that never was. A held Service is not in Services.
	Hold map[model.ServiceName]bool
}

// Result is what a backend did.
type Result struct {
	// Writes is the number of rules or set elements that were added or deleted.
	Writes int
	// Drift is the number of rules or set elements that the kernel held otherwise than acknowledged, as
	// a full change found; 0 for the first one, before which nothing was acknowledged.
	Drift int
	// Example describes one of them, and is empty if Drift is 0.
	Example string
}

// ServiceError reports a Service that a backend cannot render: the Service is at fault, by name.
type ServiceError struct {
	Service model.ServiceName
	Err     error
}

// Error names the Service.
func (e *ServiceError) Error() string { return fmt.Sprintf("Service %s: %v", e.Service, e.Err) }

// Unwrap returns the cause.
func (e *ServiceError) Unwrap() error { return e.Err }

// RefusedError reports that the kernel refused the content of a transaction, of which nothing was taken.
// Some Service may be at fault, though the kernel does not say which; or the kernel does not hold what was
// acknowledged. Want of permission, memory or buffer space is never a RefusedError.
type RefusedError struct{ Err error }

// Error says that the kernel refused.
func (e *RefusedError) Error() string { return "the kernel refused: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }
