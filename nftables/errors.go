package nftables

import (
	"errors"
	"syscall"

	"svcproxy/plan"
)

// refusals are the errors by which the kernel finds fault with what a transaction says.
var refusals = []syscall.Errno{
	syscall.EINVAL, syscall.EEXIST, syscall.ENOENT, syscall.EBUSY, syscall.ENFILE, syscall.ERANGE,
	syscall.E2BIG, syscall.ELOOP, syscall.EMLINK, syscall.EOVERFLOW, syscall.ENAMETOOLONG,
}

// refused makes an error a *plan.RefusedError if the kernel found fault with the content.
func refused(err error) error {
	for _, errno := range refusals {
		if errors.Is(err, errno) {
			return &plan.RefusedError{Err: err}
		}
	}
	return err
}

// tooLong tells whether a transaction did not fit into the socket's buffer; nothing of it was taken.
func tooLong(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }

// unknownOutcome tells whether an answer was lost: the transaction may have been committed.
func unknownOutcome(err error) bool { return errors.Is(err, syscall.ENOBUFS) }
