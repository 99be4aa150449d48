"""Reads the digits on images: python examples/read_digits.py IMAGE..."""

import sys

import camapp


def main() -> None:
    """Print a line for each image, and one for each digit on it."""
    model = camapp.load("digits")
    for path in sys.argv[1:]:
        prediction = model.predict(path)
        print(f"{path}: {prediction.label or 'no digits'}")
        for box in prediction.boxes:
            print(f"  {box.label} ({box.score:.0%}) at x {box.x0:.0f}, y {box.y0:.0f}")


if __name__ == "__main__":
    main()
