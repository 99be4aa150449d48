// Drives a servo (pin 9) and an ESC (pin 10) by the lines of
//     camapp --model track --drive 'serial:///dev/ttyACM0?baud=115200'
// Stops on a stale line, and after 0.3 s without a whole one.
#include <Servo.h>
#include "camapp_line.h"

const float WHEELBASE_M = 0.26, AHEAD_M = 0.6, MOST_DEG = 32;
const int CENTRE_US = 1500, STEERING_US = 400;  // STEERING_US is negative if your servo turns the other way
const int NEUTRAL_US = 1500, SLOW_US = 40;      // start small, with the wheels in the air
const unsigned long SILENCE_MS = 300;

Servo steering, motor;
CamappLine line;
unsigned long heard = 0;
bool driving = false;

void stop_car() {
  driving = false;
  motor.writeMicroseconds(NEUTRAL_US);
}

void setup() {
  Serial.begin(115200);
  steering.attach(9);
  motor.attach(10);
  steering.writeMicroseconds(CENTRE_US);
  stop_car();
}

void loop() {
  while (Serial.available()) {
    switch (line.take(Serial.read())) {
      case CamappLine::LANE: {
        heard = millis();
        driving = true;
        float angle = camapp_steering(line.lane, AHEAD_M, WHEELBASE_M, MOST_DEG);
        steering.writeMicroseconds(CENTRE_US + (int)(STEERING_US * angle / MOST_DEG));
        motor.writeMicroseconds(NEUTRAL_US + SLOW_US);
        break;
      }
      case CamappLine::STALE:
        stop_car();
        break;
      default:  // a damaged line is left out; silence stops the car
        break;
    }
  }
  if (driving && millis() - heard > SILENCE_MS) stop_car();
}
